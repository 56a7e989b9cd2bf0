"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture
def assets() -> Path:
    """The committed test data."""
    return ASSETS


@pytest.fixture(scope="session")
def vocab_dir() -> Path:
    """A folder with the real vocabularies, named by TORCHTUNE_VOCAB_DIR; tests that need one are skipped without it."""
    folder = os.environ.get("TORCHTUNE_VOCAB_DIR")
    if not folder:
        pytest.skip("TORCHTUNE_VOCAB_DIR is not set")
    return Path(folder)


#: Text that the tiny tokenizers are trained on.
CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is the weather in Paris? It is 21 degrees and sunny.",
    'Call a tool: {"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}} and wait for its result.',
    "user assistant system tool ipython think hello world yes no the a of and to in is",
    "Größe, naïve café, 東京, 😀 and\n\nnew lines\n and\ttabs  and   spaces.",
] * 4


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny byte-level BPE: vocab.json, merges.txt, and the same as tokenizer.json without special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from torchtune.models.qwen2._tokenizer import PRETOKENIZE_REGEX

    folder = tmp_path_factory.mktemp("bpe")
    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    rust.model.save(str(folder))
    rust.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tiktoken_file(bpe_folder: Path) -> str:
    """The tiny BPE as a tiktoken file."""
    import base64
    import json

    from torchtune.modules.transforms.tokenizers._bpe import byte_letters

    vocab = json.loads((bpe_folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (
        base64.b64encode(piece.translate(byte_letters()).encode("latin-1")).decode() + f" {rank}\n"
        for piece, rank in sorted(vocab.items(), key=lambda item: item[1])
    )
    path = bpe_folder / "tokenizer.model"
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture(scope="session")
def spm_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny SentencePiece model with Mistral's control tokens, and Gemma's as symbols that it finds in text."""
    from sentencepiece import SentencePieceTrainer

    prefix = str(tmp_path_factory.mktemp("spm") / "tokenizer")
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=prefix,
        vocab_size=440,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        control_symbols="[INST],[/INST],[TOOL_CALLS],[AVAILABLE_TOOLS],[/AVAILABLE_TOOLS],[TOOL_RESULTS],[/TOOL_RESULTS]",
        user_defined_symbols="<start_of_turn>,<end_of_turn>",
        minloglevel=2,
    )
    return prefix + ".model"
