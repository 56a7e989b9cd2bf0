"""Byte-pair encoding with tiktoken."""

from __future__ import annotations

import re
from itertools import chain

from torchtune.utils._paths import tokenizer_file

#: tiktoken's regular expressions overflow the stack on longer stretches without a change of white space.
MAX_RUN_CHARS = 25_000
#: tiktoken panics on longer texts.
MAX_TEXT_CHARS = 400_000
_RUN = re.compile(r"\s+|\S+")


class TikTokenBaseTokenizer:
    """Byte-pair encoding of a tiktoken file. Text never becomes a special token.

    Args:
        path: file with one base64 token and its rank per line.
        name: name of the encoding, for messages only.
        pattern: regular expression that splits text into words.
        bos_id: id put before a text on request.
        eos_id: id put after a text on request.
        special_tokens: ids of the control tokens by their text; they are decoded, and never encoded from text.

    Raises:
        FileNotFoundError: if ``path`` does not exist.
    """

    def __init__(
        self, path: str, name: str, pattern: str, bos_id: int, eos_id: int, special_tokens: dict[str, int]
    ) -> None:
        from tiktoken import Encoding
        from tiktoken.load import load_tiktoken_bpe

        ranks = load_tiktoken_bpe(tokenizer_file(path))
        self.base_vocab_size = len(ranks)
        self.tt_model = Encoding(name=name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
        self.vocab_size = self.base_vocab_size + len(special_tokens)
        self.bos_id = bos_id
        self.eos_id = eos_id

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The token ids of a text as plain text, whatever it looks like.

        Args:
            text: the text; the empty text gives no tokens at all, BOS and EOS included.
            add_bos: True to put BOS before it.
            add_eos: True to put EOS after it.
        """
        if not text:
            return []
        ids = [self.bos_id] if add_bos else []
        ids += self.encode_plain(text)
        if add_eos:
            ids.append(self.eos_id)
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a text, with nothing put before it or after it.

        Args:
            text: the text; what looks like a control token stays text.
        """
        if len(text) <= MAX_RUN_CHARS:
            return self.tt_model.encode_ordinary(text)
        return [token for piece in split_long_text(text) for token in self.tt_model.encode_ordinary(piece)]

    def decode(self, token_ids: list[int], truncate_at_eos: bool = True) -> str:
        """The text of token ids, control tokens included; bytes that are no UTF-8 become U+FFFD.

        Args:
            token_ids: ids to decode.
            truncate_at_eos: True to stop before the first EOS.
        """
        if truncate_at_eos and self.eos_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.eos_id)]
        return self.tt_model.decode(token_ids)


def split_long_text(text: str) -> list[str]:
    """Cuts a text where tiktoken could not take it in one piece; what it takes stays whole."""
    if len(text) <= MAX_RUN_CHARS:
        return [text]
    return list(
        chain.from_iterable(_split_runs(text[at : at + MAX_TEXT_CHARS]) for at in range(0, len(text), MAX_TEXT_CHARS))
    )


def _split_runs(text: str) -> list[str]:
    """Cuts within runs of white space, or of anything else, that are too long."""
    cuts = [0]
    for run in _RUN.finditer(text):
        if run.end() - run.start() > MAX_RUN_CHARS:
            cuts += range(run.start() + MAX_RUN_CHARS, run.end(), MAX_RUN_CHARS)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]
