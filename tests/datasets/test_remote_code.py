"""Code that stands beside data is never run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from torchtune.datasets._rows import load_rows


def test_trust_remote_code_is_not_passed_on_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passed: dict[str, Any] = {}

    def load_dataset(source: str, **kwargs: Any) -> datasets.Dataset:
        passed.update(kwargs)
        return datasets.Dataset.from_list([{"a": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with caplog.at_level(logging.WARNING):
        load_rows("someone/data", split="train", trust_remote_code=True)
    assert "trust_remote_code" not in passed
    assert "trust_remote_code is ignored" in caplog.text


def test_a_local_file_loads_beside_the_setting(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"a": 1}))
    rows = load_rows("json", data_files=str(tmp_path / "rows.jsonl"), split="train", trust_remote_code=True)
    assert rows[0] == {"a": 1}
