"""T5's tokenizer, on a tiny SentencePiece model."""

from __future__ import annotations

import pytest

from torchtune.models.t5 import t5_tokenizer


def test_texts_end_with_eos_and_are_filled_up_to_one_length(spm_file: str) -> None:
    tokenizer = t5_tokenizer(spm_file, max_seq_len=20)
    short = tokenizer.encode("hello")
    ids = tokenizer(["hello", "hello world " * 20])
    assert ids.shape == (2, 20)
    assert short[-1] == tokenizer.eos_id and ids[0].tolist() == short + [max(tokenizer.pad_id, 0)] * (20 - len(short))
    assert ids[1, -1] == tokenizer.eos_id


def test_decoding_inverts_encoding(spm_file: str) -> None:
    tokenizer = t5_tokenizer(spm_file)
    assert tokenizer.decode(tokenizer.encode("this is torchtune")) == "this is torchtune"


def test_long_texts_are_refused_where_they_are_not_to_be_cut(spm_file: str) -> None:
    with pytest.raises(ValueError, match="more than max_seq_len=3"):
        t5_tokenizer(spm_file, max_seq_len=3, truncate=False).encode("hello world")
