"""A byte-level tokenizer and files of rows for the dataset tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from torchtune.data import Message


class ByteTokenizer:
    """Bytes of what the messages say, calls and tools included, 0 first and 1 at the end."""

    pad_id, bos_id, eos_id = 2, 0, 1

    def __init__(self, max_seq_len: int | None = None) -> None:
        self.max_seq_len = max_seq_len

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return [self.bos_id] * add_bos + list(text.encode()) + [self.eos_id] * add_eos

    def tokenize_messages(
        self, messages: list[Message], *, tools: Any = None, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        tokens, mask = [self.bos_id], [True]
        if tools:
            text = json.dumps(tools).encode()
            tokens, mask = [*tokens, *text], [True] * (1 + len(text))
        for message in messages:
            calls = [call.to_dict() for call in message.tool_calls or []]
            text = f"{message.text_content}{json.dumps(calls) if calls else ''}".encode()
            tokens += text
            mask += [message.masked] * len(text)
        return tokens + [self.eos_id] * add_end_tokens, mask + [False] * add_end_tokens

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        sample = dict(sample)
        messages = sample.pop("messages")
        tokens, mask = self.tokenize_messages(messages, tools=sample.get("tools"))
        return {**sample, "tokens": tokens, "mask": mask}


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def short_tokenizer() -> ByteTokenizer:
    return ByteTokenizer(max_seq_len=16)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSONL, or text as it is, and gives the path."""

    def write(rows: Any, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
