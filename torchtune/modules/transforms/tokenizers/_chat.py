"""From the segments of a conversation to tokens that know whose they are, and from those to a mask.

Every model tokenizer is a :class:`ChatTokenizer`. It has two ways to write a conversation. The plain one is torchtune's
own, hand-written per family. The official one is the family's chat template, as :mod:`torchtune.data.formats` renders it.
Both give :class:`ChatTokens`; what is trained is decided after that, by a policy.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from torchtune.data._selectors import TrainOn, read_selector
from torchtune.modules.transforms.tokenizers._chat_tokens import (
    ChatTokens,
    Owner,
    cut_short,
    is_trained,
    left_cuts,
    right_cuts,
)

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats import ChatFormat, ParsedMessage, Segment
    from torchtune.data.formats._base import Part

log = logging.getLogger(__name__)

TRUNCATION_TYPES = ("right", "left")
#: What becomes of a sample that is longer than ``max_seq_len``.
TRUNCATIONS = {
    "turns": "samples lost whole turns; what is left is written anew, with its tools and its system message",
    "tokens": "samples of which not even one turn fits lost its end",
    "call": "samples of which not even one turn fits ended within a call, which is not trained",
    "plain": "samples in torchtune's own format were cut at the token",
    "untrained": "samples have nothing left that is trained",
}
#: Characters of encoded text that a tokenizer remembers, and of the longest such text: headers and tools repeat.
_CACHE_CHARS, _CACHE_TEXT = 2_000_000, 32_768
#: Behind the last segment: nothing, but what stands before it is closed.
_CLOSE = ("", True, None, False, None, None)
#: Tags such as <tool_call>: tokens in some vocabularies of a family and text in others.
_TAG = re.compile(r"</?[a-z_]+>")


def speech(message: Message) -> tuple[bool, Part]:
    """Whether the model emits a message's content, and what part it is, where the content is plain text."""
    if message.role == "assistant":
        return True, "call" if message.ipython else "content"
    return False, "content" if message.role in ("system", "user") else "result"


def is_structured(messages: Iterable[Message], tools: Any) -> bool:
    """True if a conversation holds what plain text cannot: tools, calls, reasoning or JSON results."""
    return bool(tools) or any(
        m.tool_calls or m.reasoning_content or any(part.get("type") == "json" for part in m.content) for m in messages
    )


class ChatTokenizer:
    """What every model tokenizer can do with conversations, whatever its vocabulary.

    A family gives :attr:`default_format`, the ids it needs, and the methods below whose names begin with an underscore.
    """

    #: Name of the family's official chat format.
    default_format: ClassVar[str]
    #: True where words never reach over a line break to what is no white space behind it, and text may be cut there: so
    #: with patterns that try ``\s*[\r\n]+`` before other white space and have line breaks only at the end of a word.
    cuts_at_newlines: ClassVar[bool] = False

    #: True where the end token in place of what was cut off belongs to the last message that is left.
    owns_cut_end: ClassVar[bool] = False

    max_seq_len: int | None
    stop_tokens: list[int]
    special_tokens: dict[str, int]
    bos_id: Any
    eos_id: Any

    def _setup_chat(
        self,
        max_seq_len: int | None = None,
        prompt_template: Any = None,
        truncation_type: str = "right",
        chat_format: str | None = None,
        train_on: TrainOn = "message",
        format_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes the options that every model tokenizer has."""
        if truncation_type not in TRUNCATION_TYPES:
            raise ValueError(
                f"{type(self).__name__}: truncation_type must be one of {', '.join(TRUNCATION_TYPES)}; "
                f"found {truncation_type!r}."
            )
        read_selector(train_on, f"{type(self).__name__}: train_on")
        self.max_seq_len = max_seq_len
        self.prompt_template = prompt_template
        self.truncation_type = truncation_type
        self.chat_format = chat_format
        self.train_on = train_on
        self.format_options = dict(format_options or {})
        #: How many samples were too long, by what became of them: the keys of ``TRUNCATIONS``.
        self.truncation_counts: Counter[str] = Counter()
        self._runs: dict[str | tuple[str, ...], Any] = {}
        self._room = _CACHE_CHARS
        self._format: ChatFormat | None = None
        if chat_format is not None or self.format_options:
            _ = self.format

    # What a family writes.

    def _encode_text(self, text: str) -> list[int]:
        """Ids of plain text, in which nothing becomes a control token."""
        raise NotImplementedError

    def _encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that stand side by side, encoded as one; a token belongs to the text that it begins in."""
        raise NotImplementedError

    def _decode_text(self, ids: list[int]) -> str:
        """Text of ids that are no control tokens."""
        raise NotImplementedError

    def _control_ids(self) -> Mapping[str, int]:
        """Ids of the control tokens by their text."""
        return self.special_tokens

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        """A conversation as torchtune has always written it for the family; no more messages than ``max_seq_len`` holds."""
        raise NotImplementedError

    def _encode_media(self, segment: Segment) -> list[int]:
        """Ids that stand for an image."""
        raise ValueError(f"{type(self).__name__} encodes text only; found media in message {segment.message_index}.")

    # What all share.

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The token ids of a text as plain text, whatever it looks like.

        Args:
            text: the text.
            add_bos: True to put BOS before it, where there is one.
            add_eos: True to put EOS after it, where there is one.
        """
        return with_ends(self._encode_text(text), self.bos_id if add_bos else None, self.eos_id if add_eos else None)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids.

        Args:
            token_ids: ids to decode.
            skip_special_tokens: True to leave out control tokens.
        """
        segments = self.to_segments(token_ids)
        return "".join(segment.text for segment in segments if not (skip_special_tokens and segment.special))

    @property
    def format(self) -> ChatFormat:
        """The chat format of the official path."""
        if self._format is None:
            from torchtune.data.formats import get_format

            name = self.default_format if self.chat_format in (None, "official") else self.chat_format
            self._format = get_format(name, **self.format_options)
        return self._format

    def tokenize_chat(
        self, messages: list[Message], *, tools: Any = None, add_end_tokens: bool = True, **plain_options: Any
    ) -> ChatTokens:
        """The tokens of a conversation with their owners, cut to ``max_seq_len``; see :meth:`tokenize_messages`.

        ``plain_options`` are what else the family's plain format knows.
        """
        if not messages:
            raise ValueError(f"{type(self).__name__}: the conversation has no messages; expected at least one.")
        if self.chat_format is None and not is_structured(messages, tools):
            if self.prompt_template is not None:
                messages = apply_template(self.prompt_template, messages, not add_end_tokens)
            chat = self._plain_chat(messages, add_end_tokens, **plain_options)
            if self.max_seq_len is not None:
                owner = chat.runs[-1].message_index if chat.runs and self.owns_cut_end else None
                end_id = self.eos_id if add_end_tokens else None
                chat = chat.truncate(self.max_seq_len, self.truncation_type, end_id, owner)
            causes = ["plain"] if chat.shortened else []
        else:
            causes = []
            chat = self._official_chat(messages, tools, add_end_tokens)
            if self.max_seq_len is not None and len(chat) > self.max_seq_len:
                chat, cause = self._fit_turns(chat, messages, tools, add_end_tokens)
                causes = [cause]
        chat.messages = messages
        if causes and add_end_tokens:
            if all(chat.mask(self.train_on)) and any(map(is_trained, messages)):
                causes.append("untrained")
            self._count_truncation(causes)
        return chat

    def tokenize_messages(
        self, messages: list[Message], *, tools: Any = None, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        """The token ids of a conversation, and a mask that is True where a token is not trained.

        Args:
            messages: the conversation.
            tools: function schemas in OpenAI form, or None.
            add_end_tokens: False leaves the last turn open, for the model to go on.

        Raises:
            ValueError: if there are no messages, or the family cannot express one of them.
        """
        chat = self.tokenize_chat(messages, tools=tools, add_end_tokens=add_end_tokens)
        return chat.tokens, chat.mask(self.train_on)

    def __call__(self, sample: MutableMapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """Takes ``messages`` and ``tools`` out of a sample and puts ``tokens`` and ``mask`` in.

        Where some tokens count more or less than others, ``loss_weights`` says how much each does. ``inference`` leaves the
        last turn open.
        """
        messages, tools = sample.pop("messages"), sample.pop("tools", None)
        chat = self.tokenize_chat(messages, tools=tools, add_end_tokens=not inference)
        sample["tokens"] = chat.tokens
        sample["mask"], weights = chat.mask_and_weights(self.train_on)
        if weights is not None:
            sample["loss_weights"] = weights
        return sample

    def prompt_tokens(self, messages: list[Message], *, tools: Any = None) -> list[int]:
        """The ids of a conversation in the official format, with the prompt for the model's next turn; nothing is cut.

        Args:
            messages: the conversation so far.
            tools: function schemas in OpenAI form, or None.
        """
        return self._encode_segments(self._render(messages, tools, True)).tokens

    @property
    def official_stop_tokens(self) -> list[int]:
        """Ids that end a turn in the official format: what to stop generation at after :meth:`prompt_tokens`."""
        ids = self._control_ids()
        return list(dict.fromkeys([*(ids[text] for text in self.format.stop if text in ids), *self.stop_tokens]))

    def parse_tokens(self, ids: Sequence[int], *, tools: Any = None) -> ParsedMessage:
        """The turn that the model emitted: text, reasoning, calls, and calls that could not be read. It never raises on these.

        Args:
            ids: token ids, with or without the end token and padding behind it.
            tools: function schemas in OpenAI form; formats that write argument values as raw text take their types
                from them.
        """
        return self.format.parse(self.to_segments(ids), tools)

    def to_segments(self, ids: Sequence[int]) -> list[Segment]:
        """Ids as segments: each control token one of its own, the text between them decoded."""
        from torchtune.data.formats import Segment

        texts = self._control_texts()
        segments: list[Segment] = []
        plain: list[int] = []
        for token in ids:
            if token not in texts:
                plain.append(int(token))
                continue
            if plain:
                segments.append(Segment(self._decode_text(plain)))
                plain = []
            segments.append(Segment(texts[token], special=True))
        if plain:
            segments.append(Segment(self._decode_text(plain)))
        return segments

    def _render(self, messages: Sequence[Message], tools: Any, prompt: bool) -> list[Segment]:
        """The conversation in the official format, with the prompt for the next turn where asked for."""
        return self.format.render(messages, tools, add_generation_prompt=prompt)

    def _control_texts(self) -> dict[int, str]:
        if not hasattr(self, "_texts"):
            self._texts = {token: text for text, token in self._control_ids().items()}
        return self._texts

    def _official_chat(self, messages: Sequence[Message], tools: Any, add_end_tokens: bool) -> ChatTokens:
        """A conversation in the official format; with the last turn open, as the model is to find it."""
        messages = self._official_messages(messages)
        if add_end_tokens:
            return self._encode_segments(self._render(messages, tools, False))
        last = messages[-1]
        if last.role != "assistant" or not (last.tool_calls or last.reasoning_content or last.text_content):
            before = messages if last.role != "assistant" else messages[:-1]
            return self._encode_segments(self._render(before, tools, True))
        segments = self._render(messages, tools, False)
        while segments and (segments[-1].part == "end" or not segments[-1].sampled):
            segments.pop()
        return self._encode_segments(segments)

    def _official_messages(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with a prompt template's words; a template that is a chat format itself is not needed."""
        if self.prompt_template is None:
            return messages
        from torchtune.data._prompt_templates import PromptTemplate

        template = self.prompt_template
        return template(list(messages)) if isinstance(template, PromptTemplate) else messages

    def _encode_segments(self, segments: Iterable[Segment]) -> ChatTokens:
        """Control tokens become their ids; the text between two of them is encoded as one."""
        controls, cuts, known = self._control_ids(), self.cuts_at_newlines, self._runs
        placed: list[tuple[Owner, Sequence[int]]] = []
        # Text since the last control token or cut, neighbours of one owner joined: the last of it, and what is before that.
        last: str | None = None
        whose: Owner = (None, False, None)
        before: list[tuple[Owner, str]] = []
        for segment in chain(segments, (_CLOSE,)):
            text, special, index, sampled, part, media = segment
            owner = (index, sampled, part)
            ids: Sequence[int] | None = None
            if special or media is not None:
                ids = [controls[text]] if media is None and text in controls else self._encode_control(segment)
            if last is not None:
                # A word never reaches over a line break to what is no white space: there each side keeps its own words.
                if ids is None and not (cuts and last[-1:] == "\n" and text and not text[0].isspace()):
                    if owner == whose:
                        last += text
                    else:
                        before.append((whose, last))
                        last, whose = text, owner
                    continue
                if before:
                    owners, texts = zip(*before, (whose, last), strict=True)
                    placed += zip(owners, known.get(texts) or self._remember(texts), strict=True)
                    before.clear()
                else:
                    placed.append((whose, known.get(last) or self._remember(last)))
            if ids is None:
                last, whose = text, owner
            else:
                placed.append((owner, ids))
                last = None
        return ChatTokens.of(placed)

    def _encode_control(self, segment: Any) -> Sequence[int] | None:
        """Ids of media, and none at the close; None for a tag that is text in this vocabulary."""
        if segment is _CLOSE:
            return ()
        if segment.media is not None:
            return self._encode_media(segment)
        if segment.text in self.format.stop or not _TAG.fullmatch(segment.text):
            raise ValueError(
                f"Format {self.format.name} writes the control token {segment.text}, but the vocabulary of this "
                f"{type(self).__name__} has no such token. Choose another chat_format, or add the token."
            )
        return None

    def _remember(self, key: str | tuple[str, ...]) -> Any:
        """Ids of a text, or of each of several that are encoded as one; kept where they are not too long."""
        found: Any = self._encode_text(key) if isinstance(key, str) else self._encode_parts(key)
        size = len(key) if isinstance(key, str) else sum(map(len, key))
        if size <= _CACHE_TEXT:
            self._room -= size
            if self._room < 0:
                self._runs.clear()
                self._room = _CACHE_CHARS
            self._runs[key] = found
        return found

    def _fit_turns(
        self, chat: ChatTokens, messages: list[Message], tools: Any, add_end_tokens: bool
    ) -> tuple[ChatTokens, str]:
        """Drops whole turns until the rest fits; where not even one does, its end is cut. Tells which it was.

        What is left is rendered anew, so it is what the format writes for it, with its tools and system prompt.
        """
        assert self.max_seq_len is not None
        if not add_end_tokens:
            return chat.truncate(self.max_seq_len, self.truncation_type), "tokens"
        kept = right_cuts(messages) if self.truncation_type == "right" else left_cuts(messages)
        low, high, best = 0, len(kept) - 1, None
        shortest: ChatTokens = chat
        while low <= high:
            middle = (low + high) // 2
            indexes = kept[middle]
            rendered = self._official_chat([messages[i] for i in indexes], tools, True).with_messages(indexes)
            if len(rendered) <= self.max_seq_len:
                best, high = rendered, middle - 1
            else:
                low = middle + 1
            if len(rendered) < len(shortest):
                shortest = rendered
        if best is not None:
            return best, "turns"
        cut, torn = cut_short(shortest, self.max_seq_len)
        return cut, "call" if torn else "tokens"

    def _count_truncation(self, causes: Iterable[str]) -> None:
        """Counts a sample under each cause, and logs the first, the tenth, the hundredth... of it."""
        for cause in causes:
            self.truncation_counts[cause] += 1
            count = self.truncation_counts[cause]
            if str(count).strip("0") == "1":
                what = TRUNCATIONS[cause]
                log.warning("Longer than max_seq_len=%s, %d so far: %s.", self.max_seq_len, count, what)


def with_ends(ids: list[int], bos_id: int | None, eos_id: int | None) -> list[int]:
    """Ids with BOS before and EOS behind them, those that aren't None."""
    return [*([] if bos_id is None else [bos_id]), *ids, *([] if eos_id is None else [eos_id])]


def only_text(item: dict[str, Any], index: int, message: Message, tokenizer: Any) -> str:
    """The text of a part of a message; an error where it is something else."""
    if item["type"] != "text":
        raise ValueError(
            f"Message {index} ({message.role}) holds content of type {item['type']!r}; "
            f"{type(tokenizer).__name__} encodes text only."
        )
    return item["content"]


def apply_template(template: Any, messages: list[Message], inference: bool) -> list[Message]:
    """Puts a prompt template's words around the messages."""
    return template(messages, inference=True) if inference else template(messages)
