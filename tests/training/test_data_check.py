"""Rows that can't be read are told before the first step, all at once, and by name when one is met later."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import IterableDataset

from torchtune import config
from torchtune.training import DataError, build_dataloader, build_dataset, check_data, read_batches

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}
ROWS: list[dict[str, Any]] = [
    GOOD,
    {"messages": [{"role": "boss", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
    GOOD,
    {"text": "no conversation"},
]


class Letters:
    """A tokenizer of letters, as far as datasets need one."""

    max_seq_len = 64

    def __call__(self, sample: dict[str, Any], inference: bool = False) -> dict[str, Any]:
        parts = [(ord(c), m.masked) for m in sample.pop("messages") for c in m.text_content]
        return {**sample, "tokens": [token for token, _ in parts], "mask": [masked for _, masked in parts]}


def section(folder: Path, rows: list[dict[str, Any]] = ROWS, **settings: Any) -> DictConfig:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": str(file)}
    form = {"conversation_column": "messages", "conversation_style": "openai", "split": "train"}
    return OmegaConf.create({"check_data": True, "dataset": {**own, **form, **settings}})


@pytest.mark.parametrize("packed", [False, True])
def test_every_bad_row_is_named_with_its_file(packed: bool, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        build_dataset(section(tmp_path, packed=packed), "dataset", Letters())
    text = str(caught.value)
    assert text.startswith("2 of 4 rows of dataset can't be read. No step was taken.")
    assert "row 2 of rows.jsonl: message 0 of column 'messages' has unknown role 'boss'" in text
    assert "row 4 of rows.jsonl: The row has no column 'messages'" in text


def test_good_rows_make_a_dataset_alone_or_in_a_list(tmp_path: Path) -> None:
    cfg = section(tmp_path, [GOOD, GOOD])
    dataset, packed = build_dataset(cfg, "dataset", Letters())
    assert (len(dataset), packed) == (2, False)
    cfg.dataset = [cfg.dataset, cfg.dataset]
    dataset, packed = build_dataset(cfg, "dataset", Letters())
    assert (len(dataset), packed) == (4, False)


@pytest.mark.parametrize("rows", [1, 0, False])
def test_so_many_rows_are_read_as_the_setting_says(rows: int, tmp_path: Path) -> None:
    cfg = section(tmp_path)
    cfg.check_data = rows
    dataset, _ = build_dataset(cfg, "dataset", Letters())
    assert len(dataset) == 4


def test_a_negative_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="check_data is -1; expected true, false, or a number"):
        check_data([], -1)


def test_many_errors_are_counted_and_the_first_are_shown() -> None:
    class Broken(list):
        def __getitem__(self, index: Any) -> Any:
            raise KeyError("answer")

    with pytest.raises(DataError) as caught:
        check_data(Broken(range(50)))
    assert "50 of 50 rows" in str(caught.value) and "row 1: KeyError: 'answer'" in str(caught.value)
    assert "... and 30 more" in str(caught.value)
    with pytest.raises(DataError, match=r"At least 1,000 of 5,000 rows"):
        check_data(Broken(range(5000)))


def test_rows_without_anything_to_train_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"tokens": [1], "labels": [-100]}, {"tokens": [1], "labels": [1]}, {"tokens": [2], "labels": [-100]}]
    check_data(rows)
    assert "2 rows of dataset have nothing to train" in caplog.text and "from 0: 0, 2" in caplog.text


class Endless(IterableDataset):
    """A stream that can't be read."""

    def __iter__(self) -> Any:
        raise ValueError("row 1 of stream: bad")


def test_a_stream_is_not_read_ahead_and_its_bad_row_is_named_when_it_comes() -> None:
    check_data(Endless())
    loader = build_dataloader(Endless(), batch_size=1, collate_fn=list)
    with pytest.raises(DataError, match="^row 1 of stream: bad\n"):
        list(read_batches(loader))


def test_a_row_that_a_worker_cannot_read_is_named_without_its_traceback(tmp_path: Path) -> None:
    cfg = section(tmp_path)
    dataset = config.instantiate(cfg.dataset, Letters())
    loader = build_dataloader(dataset, batch_size=1, collate_fn=list, shuffle=False, num_workers=1)
    with pytest.raises(DataError) as caught:
        list(read_batches(loader))
    assert str(caught.value).startswith("row 2 of rows.jsonl: message 0")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_recipe_shows_the_message_alone_unless_it_is_debugged(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @config.parse
    def recipe(cfg: DictConfig) -> None:
        raise DataError("row 2 is bad")

    (tmp_path / "cfg.yaml").write_text(f"log_level: {level}\n")
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", str(tmp_path / "cfg.yaml")])
    with pytest.raises(SystemExit if level == "INFO" else DataError) as caught:
        recipe()
    if level == "INFO":
        assert str(caught.value.code).startswith("Error: row 2 is bad")  # type: ignore[attr-defined]
