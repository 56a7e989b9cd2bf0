"""Model tokenizers on a SentencePiece vocabulary: Llama 2, Mistral, Gemma and Phi 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torchtune.modules.common_utils import passed_on
from torchtune.modules.transforms.tokenizers._bpe import share_by_start
from torchtune.modules.transforms.tokenizers._chat import ChatTokenizer, with_ends
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens
from torchtune.modules.transforms.tokenizers._sentencepiece import SentencePieceBaseTokenizer
from torchtune.modules.transforms.tokenizers._utils import join_turns

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data._selectors import TrainOn

#: Characters that count as white space at the edges of a text.
WHITESPACE_CHARS = [" ", "\n", "\t", "\r", "\v"]
_SPACE = "▁"


class SentencePieceChatTokenizer(ChatTokenizer):
    """Conversations on a SentencePiece vocabulary.

    The plain format is bare text, with BOS before a turn and EOS after each answer. In the official format, text between
    two control tokens is encoded as one, and the space that it begins with is the one that SentencePiece puts there.
    """

    owns_cut_end = True

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: Any = None,
        truncation_type: str = "right",
        *,
        chat_format: str | None = None,
        train_on: TrainOn = "message",
        format_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._spm_model = SentencePieceBaseTokenizer(path)
        self._spm_model.pad_id = 0
        self._prefixes = self._pieces(self._spm_model.spm_model.encode("a"))[0].startswith(_SPACE)
        self._ids: dict[str, int] | None = None
        self.stop_tokens = [self.eos_id]
        self._setup_chat(max_seq_len, prompt_template, truncation_type, chat_format, train_on, format_options)

    bos_id = passed_on("_spm_model.bos_id", "Id of BOS.")
    eos_id = passed_on("_spm_model.eos_id", "Id of EOS.")
    pad_id = passed_on("_spm_model.pad_id", "Id to fill with.")
    vocab_size = passed_on("_spm_model.vocab_size", "Number of tokens in the vocabulary file.")

    def encode(
        self, text: str, add_bos: bool = True, add_eos: bool = True, trim_leading_whitespace: bool = False
    ) -> list[int]:
        """The token ids of a text.

        Args:
            trim_leading_whitespace: True to leave out the space that SentencePiece puts before a text.
        """
        ids = self._encode_guarded(text, trim_leading_whitespace)
        return with_ends(ids, self._spm_model.bos_id if add_bos else None, self._spm_model.eos_id if add_eos else None)

    def decode(self, token_ids: list[int]) -> str:  # type: ignore[override]
        return self._spm_model.decode(token_ids)

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        bos_id = self.bos_id if options.get("add_start_tokens", True) else None
        return join_turns(self, messages, bos_id=bos_id, eos_id=self.eos_id if add_end_tokens else None)

    def _control_ids(self) -> Mapping[str, int]:
        if self._ids is None:
            model = self._spm_model.spm_model
            found = {text: model.piece_to_id(text) for text in self.format.controls}
            self._ids = {text: number for text, number in found.items() if number != model.unk_id()}
        return self._ids

    def _encode_text(self, text: str) -> list[int]:
        if self._prefixes and text == " ":
            return [self._spm_model.spm_model.piece_to_id(_SPACE)]
        return self._encode_guarded(text[1:] if self._prefixes and text.startswith(" ") else text, False)

    def _encode_guarded(self, text: str, goes_on: bool) -> list[int]:
        """Ids of a text; some models have control tokens that SentencePiece finds in text, so these are broken up."""
        ids = self._spm_model.encode(text, add_bos=False, add_eos=False, trim_leading_whitespace=goes_on)
        controls = self._control_ids()
        if set(controls.values()).isdisjoint(ids):
            return ids
        for control in sorted(controls, key=len, reverse=True):
            before, found, after = text.partition(control)
            if found:
                start = self._encode_guarded(before + found[0], goes_on)
                return start + self._encode_guarded(found[1:] + after, self._prefixes)
        return ids

    def _encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        ids = self._encode_text("".join(texts))
        lengths = [
            1
            if piece.startswith("<0x") and self._spm_model.spm_model.is_byte(number)
            else len(piece.replace(_SPACE, " ").encode())
            for number, piece in zip(ids, self._pieces(ids), strict=True)
        ]
        if lengths and self._prefixes and not "".join(texts).startswith(" "):
            lengths[0] -= 1
        starts = list(accumulate(lengths, initial=0))
        return share_by_start(starts[:-1], ids, (len(text.encode()) for text in texts))

    def _decode_text(self, ids: list[int]) -> str:
        text = self._spm_model.decode(ids)
        starts_spaced = bool(ids) and self._prefixes and self._pieces(ids[:1])[0].startswith(_SPACE)
        return " " + text if starts_spaced else text

    def _pieces(self, ids: list[int]) -> list[str]:
        return self._spm_model.spm_model.id_to_piece(ids)


class AddEosTokenizer(SentencePieceChatTokenizer):
    """Families whose ``tokenize_messages`` calls its argument ``add_eos``."""

    def tokenize_messages(  # type: ignore[override]
        self,
        messages: list[Message],
        *,
        add_eos: bool = True,
        tools: Any = None,
        add_end_tokens: bool = True,
    ) -> tuple[list[int], list[bool]]:
        """Encodes a conversation.

        Args:
            add_eos: the same as ``add_end_tokens``, as torchtune has called it here.
        """
        return super().tokenize_messages(messages, tools=tools, add_end_tokens=add_eos and add_end_tokens)
