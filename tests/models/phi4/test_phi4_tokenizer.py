"""Phi 4's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchtune.data import Message
from torchtune.models.phi4 import Phi4Tokenizer, phi4_tokenizer
from torchtune.models.phi4._tokenizer import PHI4_SPECIAL_TOKENS

TURN = [Message("user", "hello", masked=True), Message("assistant", "yes")]


@pytest.fixture(scope="module")
def tokenizer(bpe_folder: Path) -> Phi4Tokenizer:
    return Phi4Tokenizer(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"))


def test_a_conversation(tokenizer: Phi4Tokenizer) -> None:
    tokens, mask = tokenizer.tokenize_messages(TURN, add_end_tokens=True)
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    assert text == "<|im_start|>user<|im_sep|>hello<|im_end|><|im_start|>assistant<|im_sep|>yes<|im_end|>"
    assert mask[0] is True and mask[-1] is False


def test_decoding_gives_text(tokenizer: Phi4Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("naïve 東京 😀")) == "naïve 東京 😀"


def test_as_a_transform_it_ends_the_answer_except_for_inference(tokenizer: Phi4Tokenizer) -> None:
    assert tokenizer({"messages": TURN})["tokens"][-1] == tokenizer.eos_id
    assert tokenizer({"messages": TURN}, inference=True)["tokens"][-1] != tokenizer.eos_id


def test_a_sample_that_fits_trains_its_end_token(tokenizer: Phi4Tokenizer, bpe_folder: Path) -> None:
    free = tokenizer.tokenize_messages(TURN, add_end_tokens=True)
    limited = Phi4Tokenizer(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"), max_seq_len=len(free[0]))
    assert limited.tokenize_messages(TURN, add_end_tokens=True) == free


@pytest.mark.parametrize(
    ("text", "words"),
    [("12345", ["123", "45"]), ("I'LL", ["I", "'LL"]), ("a\n\n b", ["a", "\n\n", " b"]), ("日本語x", ["日本語x"])],
)
def test_words_are_split_as_cl100k_does(tokenizer: Phi4Tokenizer, text: str, words: list[str]) -> None:
    split = tokenizer._bpe.rust.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in split] == words


def test_the_system_prompt_can_be_left_out(tokenizer: Phi4Tokenizer) -> None:
    with_system = [Message("system", "S"), *TURN]
    assert tokenizer.tokenize_messages(with_system, ignore_system_prompt=True) == tokenizer.tokenize_messages(TURN)


def test_tool_and_ipython_are_the_same(tokenizer: Phi4Tokenizer) -> None:
    def chat(role: str) -> list[Message]:
        return [*TURN, Message(role, "42"), Message("assistant", "so")]  # type: ignore[arg-type]

    assert tokenizer.tokenize_messages(chat("tool")) == tokenizer.tokenize_messages(chat("ipython"))


def test_the_list_of_control_tokens_has_each_id_once() -> None:
    assert sorted(PHI4_SPECIAL_TOKENS.values()) == list(range(100256, 100352))


def test_the_builder_asks_for_both_files(bpe_folder: Path) -> None:
    with pytest.raises(ValueError, match="vocab_path and merges_path"):
        phi4_tokenizer(str(bpe_folder / "vocab.json"))
    made = phi4_tokenizer(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"), train_on="sampled")
    assert made.train_on == "sampled"
