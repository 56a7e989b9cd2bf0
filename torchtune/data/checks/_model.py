"""What a row is written by: a format alone, or a tokenizer from a model's files."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torchtune.data._message import Message
from torchtune.data._selectors import TrainOn

#: Format name begins with -> module and class of the tokenizer. The first row that fits.
_SENTENCEPIECE = (
    ("llama2", "llama2", "Llama2Tokenizer"),
    ("mistral", "mistral", "MistralTokenizer"),
    ("gemma", "gemma", "GemmaTokenizer"),
    ("phi3", "phi3", "Phi3MiniTokenizer"),
)
_VOCAB_AND_MERGES = (
    ("qwen3", "qwen3", "Qwen3Tokenizer"),
    ("qwen2_5", "qwen2_5", "Qwen2_5Tokenizer"),
    ("qwen2", "qwen2", "Qwen2Tokenizer"),
    ("phi4", "phi4", "Phi4Tokenizer"),
)
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s*")
_LLAMA4_SIZE = 150_000


@dataclass
class Model:
    """What writes rows as a model reads them: a chat format without a vocabulary, or a tokenizer as the recipes use it."""

    format: Any = None
    tokenizer: Any = None

    def measure(self, messages: Sequence[Message], tools: Any) -> tuple[int, int] | None:
        """Number of tokens and of trained ones; None without a vocabulary."""
        if self.tokenizer is None:
            self.format.render(messages, tools)
            return None
        tokens, mask = self.tokenizer.tokenize_messages(list(messages), tools=tools)
        return len(tokens), len(mask) - sum(mask)


def find_model(
    model: Any,
    *,
    chat_format: str | None = None,
    train_on: TrainOn = "message",
    format_options: Mapping[str, Any] | None = None,
) -> Model:
    """The model of a name, a folder or file, or a tokenizer."""
    from torchtune.data.formats import FORMATS, detect_format, get_format

    if hasattr(model, "tokenize_messages"):
        return Model(tokenizer=model)
    path = Path(model).expanduser()
    if str(model) in FORMATS or not path.exists():
        if str(model).startswith((".", "/", "~")):
            raise ValueError(f"There is no folder or file {path}; expected a tokenizer's files, or a name of a format")
        name = detect_format(str(model)) if chat_format in (None, "official") else chat_format
        return Model(get_format(name, **(format_options or {})))
    options: dict[str, Any] = {"chat_format": chat_format, "train_on": train_on}
    if format_options:
        options["format_options"] = format_options
    return Model(tokenizer=_load(path, options))


def _load(path: Path, options: Mapping[str, Any]) -> Any:
    """The tokenizer whose files lie at a path."""
    folder = path if path.is_dir() else path.parent
    name = options["chat_format"] or _format_name(folder, path)
    given = None if path.is_dir() else path
    places = (folder / "tokenizer.model", folder / "original" / "tokenizer.model")
    model = given or next((file for file in places if file.is_file()), None)
    if model is not None and model.suffix != ".json" and (size := _tiktoken_size(model)):
        module, kind = ("llama4", "Llama4Tokenizer") if size > _LLAMA4_SIZE else ("llama3", "Llama3Tokenizer")
        return _class(module, kind)(str(model), **options)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file() and (given is None or given == vocab):
        row = _row(_VOCAB_AND_MERGES, name or "qwen2_5")
        if row is not None:
            return _class(*row)(str(vocab), str(merges), **options)
    tokenizer_json = given if given is not None and given.suffix == ".json" else folder / "tokenizer.json"
    if tokenizer_json.is_file():
        from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

        files = {
            "tokenizer_config_json_path": folder / "tokenizer_config.json",
            "generation_config_path": folder / "generation_config.json",
        }
        found = {key: str(file) for key, file in files.items() if file.is_file()}
        return HuggingFaceModelTokenizer(str(tokenizer_json), **found, **options)  # type: ignore[arg-type]
    if model is not None:
        row = _row(_SENTENCEPIECE, name or "")
        if row is not None:
            return _class(*row)(str(model), **options)
        raise ValueError(
            f"{model}: a SentencePiece vocabulary, but of which family? Say it by chat_format (found {name!r})"
        )
    raise ValueError(
        f"{path} has no tokenizer: expected tokenizer.json with tokenizer_config.json, tokenizer.model, or vocab.json "
        f"with merges.txt; found {sorted(file.name for file in folder.iterdir())[:20]}"
    )


def _format_name(folder: Path, path: Path) -> str | None:
    from torchtune.data.formats import detect_format

    for named in (folder, path.stem):
        try:
            return detect_format(named)
        except ValueError:
            continue
    return None


def _row(table: Sequence[tuple[str, str, str]], name: str) -> tuple[str, str] | None:
    return next(((module, kind) for start, module, kind in table if name.startswith(start)), None)


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"torchtune.models.{module}"), name)


def _tiktoken_size(path: Path) -> int:
    """Number of tokens of a tiktoken vocabulary; 0 where the file is something else."""
    with open(path, "rb") as file:
        head = list(islice(file, 3))
        if len(head) < 3 or not all(map(_TIKTOKEN_LINE.fullmatch, head)):
            return 0
        return len(head) + sum(1 for _ in file)
