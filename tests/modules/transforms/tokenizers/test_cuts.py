"""Texts that are cut at line breaks, so that what repeats is encoded once, keep their ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchtune.data import Message
from torchtune.data.formats import Segment, get_format
from torchtune.data.formats._write import dumps_schema
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.qwen2 import Qwen2Tokenizer
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

PIECES = st.text(alphabet="\n\n\n \t\r'\u2028\x1c\x85{}\"/:.sS1aé東\u0301\u00a0😀", max_size=6)


@pytest.fixture(scope="module")
def tokenizers(tiktoken_file: str, bpe_folder: Path) -> list[Any]:
    return [
        Llama3Tokenizer(tiktoken_file),
        Qwen2Tokenizer(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt")),
    ]


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(PIECES, min_size=1, max_size=6))
def test_ids_are_those_of_the_whole_text(texts: list[str], tokenizers: list[Any]) -> None:
    for tokenizer in tokenizers:
        tokenizer._runs.clear()
        chat = tokenizer._encode_segments([Segment(text, message_index=i) for i, text in enumerate(texts)])
        assert chat.tokens == tokenizer._encode_text("".join(texts))
        assert chat.message_index == sorted(chat.message_index)


def test_what_repeats_before_a_line_break_is_encoded_once(tokenizers: list[Any]) -> None:
    for tokenizer in tokenizers:
        encoded = []
        plain = tokenizer._encode_text
        tokenizer._encode_text = lambda text, plain=plain, encoded=encoded: encoded.append(text) or plain(text)
        for question in ("What now?", "And then?"):
            tokenizer._encode_segments([Segment("the tools\n\n"), Segment(question)])
        del tokenizer._encode_text
        assert encoded.count("the tools\n\n") == 1


def test_indented_json_of_equal_values_that_look_different_is_not_mixed_up() -> None:
    for value in ({"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": {"b": None}}):
        for _ in range(2):
            assert dumps_schema(value, 4) == json.dumps(value, ensure_ascii=False, indent=4)
            assert dumps_schema(value, 2) == json.dumps(value, ensure_ascii=False, indent=2)


def test_neighbours_of_one_owner_are_one_run_and_owners_stay_apart() -> None:
    a, b = (0, False, "header"), (0, True, "content")
    chat = ChatTokens.of([(a, [1, 2]), (a, [3]), (b, []), (a, [4]), (b, [5]), (b, [6])])
    assert chat.tokens == [1, 2, 3, 4, 5, 6]
    assert chat.sampled == [False] * 4 + [True] * 2
    assert chat.part == ["header"] * 4 + ["content"] * 2
    assert sum(run.length for run in chat.runs) == len(chat.tokens)


def test_remembered_segments_do_not_change_with_a_callers_list() -> None:
    fmt, messages = get_format("qwen2_5"), [Message("user", "hi"), Message("assistant", "ho")]
    first = fmt.render(messages)
    kept = list(first)
    first.clear()
    assert fmt.render(messages) == kept
    assert [s.message_index for s in fmt.render([*messages, *messages])][-1] == 3
