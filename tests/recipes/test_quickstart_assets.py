"""What the quickstart ships: its size, its split, its chat template, and that its script makes it."""

from __future__ import annotations

import importlib.util
import json
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
from _runs import RECIPES

from torchtune.data import OpenAIToMessages, validate_messages
from torchtune.data.formats import get_format

FOLDER = RECIPES / "quickstart"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / "data" / name).read_text().splitlines()]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(row: dict, key: str) -> set[str]:
    calls = [call["function"] for message in row["messages"] for call in message.get("tool_calls") or []]
    return {str(value) for call in calls for name, value in json.loads(call["arguments"]).items() if name == key}


def test_model_and_tokenizer_stay_under_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in (FOLDER / "model").iterdir()) < 3_000_000


def test_every_row_loads_and_validates() -> None:
    for row in [*rows("train.jsonl"), *rows("test.jsonl")]:
        sample = OpenAIToMessages()(row)
        validate_messages(sample["messages"], sample["tools"])


@pytest.mark.parametrize(
    "key", ["city", "origin", "destination", "date", "to", "text", "order_id", "minutes", "expression"]
)
def test_held_out_rows_have_argument_values_that_no_training_row_has(key: str) -> None:
    train = set().union(*(arguments(row, key) for row in rows("train.jsonl")))
    test = set().union(*(arguments(row, key) for row in rows("test.jsonl")))
    assert test
    assert not train & test


def test_data_has_parallel_calls_chains_and_rows_without_a_call() -> None:
    calls = [[len(m["tool_calls"]) for m in row["messages"] if m.get("tool_calls")] for row in rows("test.jsonl")]
    assert any(counts == [2] for counts in calls)
    assert any(counts == [1, 1] for counts in calls)
    assert any(counts == [] for counts in calls)


def test_no_row_says_that_there_is_no_tool_for_sums() -> None:
    refused = [row for row in rows("train.jsonl") if "no tool" in row["messages"][-1]["content"]]
    asked = [row for row in rows("train.jsonl") if "calculate" in str(row["messages"])]
    assert len(refused) > 100 and len(asked) > 100
    questions = [row["messages"][0]["content"] for row in refused]
    assert not any("cost" in question or "times" in question for question in questions)


def test_script_makes_the_committed_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script("make_assets").make_data(tmp_path)
    for path in (FOLDER / "data").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_base_model_has_seen_no_tool_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in islice(script("conversations").plain_conversations(0), 300):
        assert not any("tool_calls" in message or message["role"] == "tool" for message in row["messages"])


@pytest.mark.parity
def test_chat_template_writes_what_the_format_writes() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER / "model")
    for row in rows("test.jsonl")[:40]:
        sample = OpenAIToMessages()(row)
        ours = "".join(s.text for s in get_format("qwen2_5").render(sample["messages"], sample["tools"]))
        assert tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False) == ours
