"""Tokenizers from the files of a Hugging Face model."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.data.formats._registry import find_templates
from torchtune.modules.common_utils import passed_on
from torchtune.modules.transforms.tokenizers._bpe import share_by_start
from torchtune.modules.transforms.tokenizers._chat import ChatTokenizer, with_ends
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens
from torchtune.modules.transforms.tokenizers._hf_plain import plain_tokenizer
from torchtune.modules.transforms.tokenizers._hf_template import Template
from torchtune.modules.transforms.tokenizers._hf_trace import Controls, Tracer, any_of, end_of_turn, take_out_generation
from torchtune.utils._paths import tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from torchtune.data._message import Message
    from torchtune.data.formats import Segment

log = logging.getLogger(__name__)

#: Names under which a config holds control tokens that a template may use.
_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
#: Added tokens that are ordinary text: white space, and the HTML that Gemma has tokens for.
_ORDINARY = re.compile(
    r"\s+|▁+|.|</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|sub|sup|code)>", re.DOTALL
)


class HuggingFaceBaseTokenizer:
    """Encodes and decodes as a ``tokenizer.json`` says. Text never becomes a control token.

    Args:
        tokenizer_json_path: the ``tokenizer.json``.
        tokenizer_config_json_path: the ``tokenizer_config.json``, for the texts of BOS and EOS.
        generation_config_path: the ``generation_config.json``, for their ids where the other doesn't give them.

    Raises:
        ValueError: if neither of the two is given.
        OSError: if a file does not exist.
    """

    def __init__(
        self,
        tokenizer_json_path: str,
        *,
        tokenizer_config_json_path: str | None = None,
        generation_config_path: str | None = None,
    ) -> None:
        from tokenizers import Tokenizer

        if not (tokenizer_config_json_path or generation_config_path):
            raise ValueError(
                "At least one of tokenizer_config_json_path and generation_config_path is needed, to know BOS and EOS; "
                "found neither."
            )
        self._json = Path(tokenizer_file(tokenizer_json_path)).read_text(encoding="utf-8")
        self.tokenizer: Tokenizer = Tokenizer.from_str(self._json)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.config = _read_json(tokenizer_config_json_path)
        self.generation_config = _read_json(generation_config_path)
        self.bos_id = self._find_id("bos")
        self.eos_id = self._find_id("eos")
        self._added = {
            token.content: (number, token) for number, token in self.tokenizer.get_added_tokens_decoder().items()
        }
        named = {*(_token_text(self.config.get(name)) for name in _NAMED_TOKENS), "<s>", "</s>"}
        #: Ids of the tokens that text may not become.
        self.control_ids = {text: number for text, (number, _) in self._added.items() if not _ORDINARY.fullmatch(text)}
        #: Those of them that may not stand in the model's own words either.
        self.hard_controls = frozenset(
            text for text in self.control_ids if self._added[text][1].special or text in named
        )
        self._plain: dict[bool, Tokenizer] = {}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, control tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def pad_id(self) -> int | None:
        """Id to fill with; EOS where the config names none."""
        text = _token_text(self.config.get("pad_token"))
        found = None if text is None else self.tokenizer.token_to_id(text)
        return self.eos_id if found is None else found

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The token ids of a text as plain text, whatever it looks like.

        Args:
            text: the text.
            add_bos: True to put BOS before it, where the model has one.
            add_eos: True to put EOS after it, where the model has one.
        """
        return with_ends(self._encode_plain(text), self.bos_id if add_bos else None, self.eos_id if add_eos else None)

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids; control tokens give none.

        Args:
            token_ids: ids to decode.
        """
        return self.tokenizer.decode(token_ids)

    def _encode_plain(self, text: str, goes_on: bool = False) -> list[int]:
        """Ids of plain text; ``goes_on`` tells that it does not stand at the start."""
        if not text:
            return []
        if not goes_on:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            if set(self.control_ids.values()).isdisjoint(ids):
                return ids
        return self._plain_encoding(text, goes_on).ids

    def _plain_encoding(self, text: str, goes_on: bool) -> Any:
        if goes_on not in self._plain:
            self._plain[goes_on] = plain_tokenizer(self._json, self.control_ids, goes_on)
        return self._plain[goes_on].encode(text, add_special_tokens=False)

    def _find_id(self, name: str) -> int | None:
        text = _token_text(self.config.get(f"{name}_token"))
        found: int | None = None if text is None else self.tokenizer.token_to_id(text)
        if found is not None:
            return found
        given = self.generation_config.get(f"{name}_token_id")
        first = given[0] if isinstance(given, list) and given else given
        return first if isinstance(first, int) else None


class HuggingFaceModelTokenizer(ChatTokenizer):
    """Tokenizer of any Hugging Face model: conversations are written by the model's own chat template.

    What is trained is found by asking the template. The conversation is rendered a second time with a private character
    of each message's own inside its texts; where these come out is where the message stands, also in templates that
    rewrite earlier turns. A turn of the model runs from the end of the generation prompt to its end token, or is what the
    template marks as ``{% generation %}``. Text of messages and tools never becomes a control token. Where a template
    leaves out a text or a call, that is an error.

    Args:
        tokenizer_json_path: the ``tokenizer.json``.
        tokenizer_config_json_path: the ``tokenizer_config.json``, with the chat template unless a
            ``chat_template.jinja`` lies beside it.
        generation_config_path: the ``generation_config.json``, for the ids that end a turn.
        truncation_type: the side that turns are dropped from, "right" or "left".
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages, or None.
        chat_template: the template itself, instead of the one in the files.
        chat_format: name of the format in :mod:`torchtune.data.formats` that reads the model's output; found from the
            template by default.
        train_on: "message" trains all of a message, its header included; "sampled" only what the model emits.
        template_options: variables for the template, such as ``enable_thinking``.

    Raises:
        ValueError: if there is no chat template, or an option has no such value.
        OSError: if a file does not exist.
    """

    def __init__(
        self,
        tokenizer_json_path: str,
        *,
        tokenizer_config_json_path: str | None = None,
        generation_config_path: str | None = None,
        truncation_type: str = "right",
        max_seq_len: int | None = None,
        prompt_template: Any = None,
        chat_template: str | None = None,
        chat_format: str | None = None,
        train_on: str = "message",
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_tokenizer = HuggingFaceBaseTokenizer(
            tokenizer_json_path,
            tokenizer_config_json_path=tokenizer_config_json_path,
            generation_config_path=generation_config_path,
        )
        self.config = self.base_tokenizer.config
        variables = {**self.extract_top_level_variables(self.config), **(template_options or {})}
        folder = Path(tokenizer_json_path).parent
        sources = {"default": chat_template} if chat_template is not None else find_templates(folder, self.config)
        if not sources:
            raise ValueError(
                f"No chat template: {tokenizer_config_json_path} has no 'chat_template', and no chat_template.jinja lies "
                "beside it. Pass chat_template, or use the tokenizer of the model's family."
            )
        self.templates = {name: Template(source, variables) for name, source in sources.items()}
        self.special_tokens = {text: number for text, (number, _) in self.base_tokenizer._added.items()}
        self._controls = self._find_controls()
        self._control_numbers = frozenset(self.base_tokenizer.control_ids.values())
        self.stop_tokens = [self.special_tokens[text] for text in self._controls.stops]
        self._setup_chat(
            max_seq_len=max_seq_len,
            prompt_template=prompt_template,
            truncation_type=truncation_type,
            chat_format=chat_format or find_format(tokenizer_json_path, sources.values()),
            train_on=train_on,
        )

    bos_id = passed_on("base_tokenizer.bos_id", "Id of BOS, or None.")
    eos_id = passed_on("base_tokenizer.eos_id", "Id of EOS, or None.")
    pad_id = passed_on("base_tokenizer.pad_id", "Id to fill with; EOS where the config names none.")
    vocab_size = passed_on("base_tokenizer.vocab_size", "Number of tokens, control tokens included.")

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return self.base_tokenizer.encode(text, add_bos=add_bos, add_eos=add_eos)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return self.base_tokenizer.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def extract_top_level_variables(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a chat template may see of a tokenizer's config: texts, numbers and flags by name; a token's object is its text.

        Args:
            config: the content of a ``tokenizer_config.json``.
        """
        flat = {name: _token_text(value) if name.endswith("_token") else value for name, value in config.items()}
        return {
            name: value
            for name, value in flat.items()
            if isinstance(value, (str, int, float)) and name not in ("chat_template", "add_generation_prompt")
        }

    def render_template(self, messages: list[dict[str, Any]], add_eos: bool = True, *, tools: Any = None) -> str:
        """The text of a conversation.

        Args:
            messages: the conversation in OpenAI form.
            add_eos: True for a whole conversation, False to have it end in the prompt for the model's next turn.
            tools: function schemas in OpenAI form, or None.

        Raises:
            ValueError: if the template refuses the conversation.
        """
        return take_out_generation(self._template(tools)(messages, tools, not add_eos))[0]

    def tokenize_messages(  # type: ignore[override]
        self,
        messages: list[Message],
        add_eos: bool = True,
        max_seq_len: int | None = None,
        *,
        tools: Any = None,
        add_end_tokens: bool = True,
    ) -> tuple[list[int], list[bool]]:
        """As of the other tokenizers; an error also where the template leaves out a part of the conversation.

        Args:
            add_eos: the same as ``add_end_tokens``.
            max_seq_len: length that it is cut to; the tokenizer's own by default.
        """
        own = self.max_seq_len
        self.max_seq_len = own if max_seq_len is None else max_seq_len
        try:
            return super().tokenize_messages(messages, tools=tools, add_end_tokens=add_eos and add_end_tokens)
        finally:
            self.max_seq_len = own

    @property
    def official_stop_tokens(self) -> list[int]:
        """Ids that end a turn."""
        return self.stop_tokens

    def _render(self, messages: Sequence[Message], tools: Any, prompt: bool) -> list[Segment]:
        from torchtune.data.formats._write import wrap_tools

        wrapped = wrap_tools(tools, type(self).__name__)
        return Tracer(self._template(tools), self._controls, messages, wrapped).segments(prompt)

    def _template(self, tools: Any) -> Template:
        if tools and "tool_use" in self.templates:
            return self.templates["tool_use"]
        return self.templates.get("default") or next(iter(self.templates.values()))

    def _encode_segments(self, segments: Iterable[Segment]) -> ChatTokens:
        """The whole text is encoded as one, as the model's own tokenizer does, unless text looks like a control token."""
        segments = list(segments)
        text = "".join(segment.text for segment in segments)
        encoding = self.base_tokenizer.tokenizer.encode(text, add_special_tokens=False)
        wanted = sum(segment.special for segment in segments)
        if sum(map(self._control_numbers.__contains__, encoding.ids)) != wanted:
            return self._encode_apart(segments)
        chat = ChatTokens()
        starts = [start for start, _ in encoding.offsets]
        parts = share_by_start(starts, encoding.ids, (len(segment.text) for segment in segments))
        for segment, ids in zip(segments, parts, strict=True):
            chat.add(ids, segment.message_index, segment.sampled, segment.part)
        return chat

    def _encode_apart(self, segments: Sequence[Segment]) -> ChatTokens:
        """Encodes what stands between control tokens by itself, where nothing in it can become one."""
        chat = ChatTokens()
        run: list[Segment] = []
        added = self.base_tokenizer._added
        after: Any = None

        def flush(before: Any) -> None:
            texts = [segment.text for segment in run]
            if texts and after is not None and after.rstrip:
                texts = _strip_first(texts, str.lstrip)
            if texts and before is not None and before.lstrip:
                texts = _strip_first(texts[::-1], str.rstrip)[::-1]
            if any(texts):
                encoding = self.base_tokenizer._plain_encoding("".join(texts), goes_on=bool(chat.tokens))
                starts = [start for start, _ in encoding.offsets]
                for segment, ids in zip(run, share_by_start(starts, encoding.ids, map(len, texts)), strict=True):
                    chat.add(ids, segment.message_index, segment.sampled, segment.part)
            run.clear()

        for segment in segments:
            if not segment.special:
                run.append(segment)
                continue
            number, token = added[segment.text]
            flush(token)
            after = token
            chat.add([number], segment.message_index, segment.sampled, segment.part)
        flush(None)
        return chat

    def _control_ids(self) -> Mapping[str, int]:
        return self.base_tokenizer.control_ids

    def _decode_text(self, ids: list[int]) -> str:
        return self.base_tokenizer.tokenizer.decode(ids, skip_special_tokens=False)

    def _find_controls(self) -> Controls:
        """The control tokens, with those that end a turn by the config or by the template."""
        base = self.base_tokenizer
        hard = base.hard_controls
        texts = {number: text for text, (number, _) in base._added.items()}
        given = base.generation_config.get("eos_token_id")
        listed = [texts.get(token) for token in (self.eos_id, *(given if isinstance(given, list) else [given]))]
        own = [end_of_turn(template, any_of(hard)) for template in self.templates.values()]
        stops = tuple(dict.fromkeys(text for text in (*listed, *own) if text is not None))
        return Controls(frozenset(base.control_ids), hard | set(stops), stops)


def _strip_first(texts: list[str], strip: Any) -> list[str]:
    """Takes white space off the start of joined texts, or off their end where they come in reverse."""
    texts = list(texts)
    for at, text in enumerate(texts):
        texts[at] = strip(text)
        if texts[at]:
            break
    return texts


def find_format(tokenizer_json_path: str, templates: Iterable[str]) -> str:
    """The name of the chat format that reads what a model with these templates emits.

    One that the template bears the marks of, or that the model's folder is named after; else the hermes syntax in ChatML,
    with thinking, which most other models write.
    """
    from torchtune.data.formats import detect_format
    from torchtune.data.formats._registry import _by_template

    fits = _by_template("\n".join(templates))
    if fits:
        return fits[0]
    try:
        return detect_format(Path(tokenizer_json_path).parent)
    except ValueError:
        return "qwen3"


def _token_text(value: Any) -> str | None:
    """The text of a token, which a config writes as text, as an object, or as null."""
    return value.get("content") if isinstance(value, Mapping) else value


def _read_json(path: str | None) -> dict[str, Any]:
    return {} if path is None else json.loads(Path(tokenizer_file(path)).read_text(encoding="utf-8"))
