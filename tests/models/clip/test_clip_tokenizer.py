"""CLIP's tokenizer against that of transformers, on a tiny vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from torchtune.models.clip import clip_tokenizer
from torchtune.models.clip._tokenizer import WORD_BOUNDARY, CLIPTokenizer

TEXTS = ["a cow jumping over the moon", "Größe of 21 naïve cafés, isn't it?", "東京 😀\n\n tab\there", "", "x " * 200]
MERGES = "#version: 0.2\nt h\nth e</w>\no v\ne r</w>\nov er</w>\nc o\nco w</w>\n2 1</w>\ni s\nj u\n"


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clip") / "merges.txt"
    path.write_text(MERGES, encoding="utf-8")
    return str(path)


def reference(tokenizer: CLIPTokenizer, merges: str) -> Any:
    transformers = pytest.importorskip("transformers")
    pairs = [tuple(line.split()) for line in Path(merges).read_text(encoding="utf-8").splitlines()[1:]]
    vocab = {piece: i for i, piece in tokenizer._pieces.items()}
    return transformers.CLIPTokenizer(vocab=vocab, merges=pairs)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(text: str, merges: str) -> None:
    tokenizer = clip_tokenizer(merges)
    expected = reference(tokenizer, merges)(text, truncation=True, max_length=77)["input_ids"]
    assert tokenizer.encode(text) == expected


def test_a_batch_is_filled_up_with_the_end_token(merges: str) -> None:
    tokenizer = clip_tokenizer(merges, max_seq_len=12)
    ids = tokenizer(["the cow", "over the moon and further"])
    assert ids.shape == (2, 12) and ids.dtype == torch.long
    assert ids[0].tolist() == [*tokenizer.encode("the cow"), *[tokenizer.eos_id] * 8]
    assert ids[1, 0] == tokenizer.bos_id and ids[1, -1] == tokenizer.eos_id


def test_decoding_gives_control_tokens_and_a_space_behind_each_word(merges: str) -> None:
    tokenizer = clip_tokenizer(merges)
    assert tokenizer.decode(tokenizer.encode("this is Größe")) == "<|startoftext|>this is größe <|endoftext|>"


def test_control_tokens_in_a_text_are_text(merges: str) -> None:
    tokenizer = clip_tokenizer(merges)
    ids = tokenizer.encode("<|endoftext|>")
    assert ids.count(tokenizer.eos_id) == 1


def test_long_texts_are_refused_where_they_are_not_to_be_cut(merges: str) -> None:
    with pytest.raises(ValueError, match="more than max_seq_len=4"):
        clip_tokenizer(merges, max_seq_len=4, truncate=False).encode("the moon")


def test_the_vocabulary_is_letters_words_merges_and_control_tokens(merges: str) -> None:
    tokenizer = clip_tokenizer(merges)
    assert tokenizer.vocab_size == 512 + 10 + 2  # letters twice, merges, control tokens
    assert tokenizer._pieces[256].endswith(WORD_BOUNDARY)
