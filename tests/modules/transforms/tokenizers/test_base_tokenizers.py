"""Text to ids and back: tiktoken, byte-level BPE, SentencePiece."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchtune.data import Message
from torchtune.models.llama3._tokenizer import CL100K_PATTERN
from torchtune.modules.transforms.tokenizers import (
    GPT2BaseTokenizer,
    SentencePieceBaseTokenizer,
    TikTokenBaseTokenizer,
    parse_hf_tokenizer_json,
    tokenize_messages_no_special_tokens,
)
from torchtune.modules.transforms.tokenizers._tiktoken import MAX_RUN_CHARS, split_long_text

TEXTS = ["Hello world!", "naïve 東京 😀", " two  spaces ", "a\n\nb\tc\r\n", "<|endoftext|> <s>", "12345 I'll WE'RE"]
any_text = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tiktoken_tokenizer(tiktoken_file: str) -> TikTokenBaseTokenizer:
    special = {"<|bos|>": 1000, "<|eos|>": 1001}
    return TikTokenBaseTokenizer(tiktoken_file, "tiny", CL100K_PATTERN, 1000, 1001, special)


@pytest.fixture(scope="module")
def gpt2(bpe_folder: Path) -> GPT2BaseTokenizer:
    return GPT2BaseTokenizer(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"), None, 500, 501, 501)


@pytest.fixture(scope="module")
def spm(spm_file: str) -> SentencePieceBaseTokenizer:
    return SentencePieceBaseTokenizer(spm_file)


class TestTikToken:
    @any_text
    @given(text=st.text(min_size=1))
    def test_decoding_gives_the_text_back(self, tiktoken_tokenizer: TikTokenBaseTokenizer, text: str) -> None:
        ids = tiktoken_tokenizer.encode(text)
        assert (ids[0], ids[-1]) == (1000, 1001)
        assert tiktoken_tokenizer.decode(ids[1:]) == text

    def test_text_never_becomes_a_special_token(self, tiktoken_tokenizer: TikTokenBaseTokenizer) -> None:
        ids = tiktoken_tokenizer.encode("<|bos|>x<|eos|>", add_bos=False, add_eos=False)
        assert max(ids) < 1000

    def test_decoding_stops_at_an_end_token_in_first_place(self, tiktoken_tokenizer: TikTokenBaseTokenizer) -> None:
        assert tiktoken_tokenizer.decode([1001, *tiktoken_tokenizer.encode("Hello", False, False)]) == ""

    def test_the_empty_text_has_no_tokens(self, tiktoken_tokenizer: TikTokenBaseTokenizer) -> None:
        assert tiktoken_tokenizer.encode("") == []

    def test_vocabulary_sizes(self, tiktoken_tokenizer: TikTokenBaseTokenizer) -> None:
        assert tiktoken_tokenizer.vocab_size == tiktoken_tokenizer.base_vocab_size + 2

    def test_long_runs_are_cut_and_nothing_is_lost(self) -> None:
        text = "ab " + "x" * (2 * MAX_RUN_CHARS + 5) + " " * (MAX_RUN_CHARS + 1) + "end"
        pieces = split_long_text(text)
        assert "".join(pieces) == text
        assert [len(piece) for piece in pieces] == [3 + MAX_RUN_CHARS, MAX_RUN_CHARS, 5 + MAX_RUN_CHARS, 4]

    def test_text_without_long_runs_stays_in_one_piece(self) -> None:
        text = "word " * 20_000
        assert split_long_text(text) == [text]

    def test_a_missing_file_is_an_error(self) -> None:
        with pytest.raises(FileNotFoundError):
            TikTokenBaseTokenizer("/no/such/file", "tiny", CL100K_PATTERN, 0, 1, {})


class TestGPT2:
    @pytest.mark.parity
    @pytest.mark.parametrize("text", TEXTS)
    def test_equals_transformers(self, gpt2: GPT2BaseTokenizer, bpe_folder: Path, text: str) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        rust = Tokenizer(models.BPE.from_file(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt")))
        rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        reference = PreTrainedTokenizerFast(tokenizer_object=rust)
        assert gpt2.encode(text, add_bos=False, add_eos=False) == reference.encode(text)

    @any_text
    @given(text=st.text())
    def test_decoding_gives_the_text_back(self, gpt2: GPT2BaseTokenizer, text: str) -> None:
        assert gpt2.decode(gpt2.encode(text)) == text

    def test_bos_and_eos_stand_around_the_text(self, gpt2: GPT2BaseTokenizer) -> None:
        assert gpt2.encode("", True, True) == [500, 501]

    def test_bpe_merges_a_word(self, gpt2: GPT2BaseTokenizer) -> None:
        pieces = gpt2.bpe("weather").split(" ")
        assert "".join(pieces) == "weather"
        assert len(pieces) < len("weather")
        assert len(pieces) == len(gpt2.encode("weather", False, False))


class TestSentencePiece:
    def test_leading_space_is_left_out_on_request(self, spm: SentencePieceBaseTokenizer) -> None:
        with_space = spm.encode("world", add_bos=False, add_eos=False)
        without = spm.encode("world", add_bos=False, add_eos=False, trim_leading_whitespace=True)
        pieces = spm.spm_model.id_to_piece(without)
        assert spm.spm_model.id_to_piece(with_space)[0].startswith("▁")
        assert "".join(pieces) == "world"

    def test_trimming_keeps_bos(self, spm: SentencePieceBaseTokenizer) -> None:
        assert spm.encode("world", add_eos=False, trim_leading_whitespace=True)[0] == spm.bos_id

    @pytest.mark.parametrize("text", TEXTS)
    def test_decoding_gives_the_text_back(self, spm: SentencePieceBaseTokenizer, text: str) -> None:
        assert spm.decode(spm.encode(text)) == text

    def test_control_pieces_are_not_made_from_text(self, spm: SentencePieceBaseTokenizer) -> None:
        controls = {spm.spm_model.piece_to_id(piece) for piece in ("[INST]", "<s>", "</s>", "[TOOL_CALLS]")}
        assert controls.isdisjoint(spm.encode("[INST] <s></s>[TOOL_CALLS]", add_bos=False, add_eos=False))


class TestTurnsWithoutControlTokens:
    @pytest.fixture
    def tokenizer(self, spm_file: str) -> SentencePieceBaseTokenizer:
        tokenizer = SentencePieceBaseTokenizer(spm_file)
        tokenizer.max_seq_len = None  # type: ignore[attr-defined]
        return tokenizer

    def test_bos_before_each_turn_and_eos_after_each_answer(self, tokenizer: SentencePieceBaseTokenizer) -> None:
        messages = [Message(role, "hello") for role in ("user", "assistant", "user", "assistant")]
        tokens, mask = tokenize_messages_no_special_tokens(tokenizer, messages, bos_id=1, eos_id=2)  # type: ignore[arg-type]
        assert (tokens.count(1), tokens.count(2)) == (2, 2)
        assert mask == [False] * len(tokens)

    def test_a_masked_message_is_masked_with_its_bos(self, tokenizer: SentencePieceBaseTokenizer) -> None:
        messages = [Message("user", "hello", masked=True), Message("assistant", "yes")]
        tokens, mask = tokenize_messages_no_special_tokens(tokenizer, messages, bos_id=1, eos_id=2)  # type: ignore[arg-type]
        question = len(tokenizer.encode("hello", add_eos=False))
        assert mask == [True] * question + [False] * (len(tokens) - question)

    def test_an_open_question_that_fits_keeps_its_last_token(self, tokenizer: SentencePieceBaseTokenizer) -> None:
        messages = [Message("user", "hello world")]
        whole, _ = tokenize_messages_no_special_tokens(tokenizer, messages, bos_id=1, eos_id=2)  # type: ignore[arg-type]
        tokenizer.max_seq_len = len(whole)  # type: ignore[attr-defined]
        kept, _ = tokenize_messages_no_special_tokens(tokenizer, messages, bos_id=1, eos_id=2)  # type: ignore[arg-type]
        assert kept == whole and kept[-1] != 2

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_what_is_cut_ends_in_eos(self, tokenizer: SentencePieceBaseTokenizer, side: str) -> None:
        tokenizer.max_seq_len = 5  # type: ignore[attr-defined]
        messages = [Message("user", "hello world"), Message("assistant", "no")]
        tokens, mask = tokenize_messages_no_special_tokens(
            tokenizer, messages, bos_id=1, eos_id=2, truncation_type=side
        )  # type: ignore[arg-type]
        assert len(tokens) == len(mask) == 5 and tokens[-1] == 2

    def test_a_message_without_content_adds_nothing(self, tokenizer: SentencePieceBaseTokenizer) -> None:
        messages = [Message("user", "hello"), Message("assistant", [])]
        tokens, _ = tokenize_messages_no_special_tokens(tokenizer, messages, bos_id=1, eos_id=2)  # type: ignore[arg-type]
        assert tokens == [*tokenizer.encode("hello", add_eos=False), 2]

    def test_media_is_refused_by_message(self, tokenizer: SentencePieceBaseTokenizer) -> None:
        messages = [Message("user", "hello"), Message("assistant", [{"type": "image", "content": None}])]
        with pytest.raises(ValueError, match="Message 1 .assistant. holds content of type 'image'"):
            tokenize_messages_no_special_tokens(tokenizer, messages)  # type: ignore[arg-type]


def test_special_tokens_are_read_from_a_tokenizer_json(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"added_tokens": [{"id": 7, "content": "<|x|>"}, {"id": 9, "content": "<y>"}]}')
    assert parse_hf_tokenizer_json(str(path)) == {"<|x|>": 7, "<y>": 9}


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="added_tokens"):
        parse_hf_tokenizer_json(str(path))


def test_the_old_module_still_gives_the_names_with_a_warning() -> None:
    import torchtune.modules.tokenizers as old

    with pytest.warns(DeprecationWarning, match="transforms.tokenizers"):
        assert old.TikTokenBaseTokenizer is TikTokenBaseTokenizer
    with pytest.raises(AttributeError):
        _ = old.NoSuchTokenizer


def test_importing_the_tokenizers_loads_no_encoder() -> None:
    code = (
        "import sys, torchtune.modules.transforms.tokenizers as t; "
        "print(sorted({'tiktoken','sentencepiece','tokenizers','jinja2','transformers','datasets'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]" and not found.stderr
