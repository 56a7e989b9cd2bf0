"""Metrics arrive where they are sent, and secrets stay at home."""

from __future__ import annotations

import json
import re
import sys
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from torchtune.training.metric_logging import (
    CometLogger,
    DiskLogger,
    MLFlowLogger,
    StdoutLogger,
    TensorBoardLogger,
    WandBLogger,
    flatten_dict,
    save_config,
)

VALUES = {"loss": torch.tensor(1.25), "lr": 0.5, "norm": np.float32(2.0)}


@pytest.fixture
def config(tmp_path):
    return OmegaConf.create(
        {
            "output_dir": str(tmp_path / "run"),
            "lr": 0.5,
            "half": "${lr}",
            "tokenizer": {"path": "t.model"},
            "metric_logger": {"api_key": "abc123"},
            "hf_token": "hf_secret",
            "max_token": 5,
            "services": [{"password": "letmein", "user": "me"}],
        }
    )


def test_a_line_per_step_on_disk(tmp_path):
    logger = DiskLogger(str(tmp_path / "logs"), filename="x.txt")
    logger.log_dict(VALUES, step=1)
    logger.log("loss", 1.0, step=2)
    lines = logger.path_to_log_file().read_text().splitlines()  # readable before the logger is closed
    assert [line.strip() for line in lines] == ["Step 1 | loss:1.25 lr:0.5 norm:2.0", "Step 2 | loss:1.0"]
    logger.close()
    logger.log("loss", 0.0, step=3)
    assert len(logger.path_to_log_file().read_text().splitlines()) == 2


def test_json_lines_on_disk(tmp_path):
    logger = DiskLogger(str(tmp_path), output_fmt="jsonl")
    logger.log_dict(VALUES, step=1)
    logger.close()
    assert re.fullmatch(r"log_\d+\.jsonl", logger.path_to_log_file().name)
    assert json.loads(logger.path_to_log_file().read_text()) == {"step": 1, "loss": 1.25, "lr": 0.5, "norm": 2.0}
    with pytest.raises(ValueError, match="output_fmt is 'csv'"):
        DiskLogger(str(tmp_path), output_fmt="csv")


def test_stdout(capsys):
    StdoutLogger().log_dict(VALUES, step=3)
    assert capsys.readouterr().out.strip() == "Step 3 | loss:1.25 lr:0.5 norm:2.0"


def test_tensorboard_files_hold_the_values(tmp_path, config):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(str(tmp_path / "tb"), organize_logs=False)
    logger.log_config(config)
    for step in (1, 2):
        logger.log("loss", torch.tensor(float(step)), step)
    logger.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    read = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("loss")]
    assert read == [(1, 1.0), (2, 2.0)]


def test_the_saved_config_keeps_references_and_hides_secrets(config):
    path = save_config(config)
    text = path.read_text()
    assert path.name == "torchtune_config.yaml"
    assert "${lr}" in text
    for secret in ("abc123", "hf_secret", "letmein"):
        assert secret not in text
    saved = OmegaConf.load(path)
    assert (saved.tokenizer.path, saved.max_token, saved.services[0].user) == ("t.model", 5, "me")
    assert config.hf_token == "hf_secret"


class Recorder(types.ModuleType):
    """A stand-in for a service's package: it notes every call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple] = []
        self.run = None

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Note(self, name)


class Note:
    def __init__(self, recorder: Recorder, path: str) -> None:
        self.recorder, self.path = recorder, path

    def __getattr__(self, name: str) -> Note:
        return Note(self.recorder, f"{self.path}.{name}")

    def __call__(self, *args, **kwargs):
        self.recorder.calls.append((self.path, args, kwargs))
        return None if self.path == "active_run" else Note(self.recorder, f"{self.path}()")


@pytest.mark.parametrize(
    ("package", "logger_class", "options", "sent"),
    [
        ("wandb", WandBLogger, {"project": "p"}, ("log", ({"loss": 1.25, "global_step": 7},), {})),
        ("comet_ml", CometLogger, {"project": "p"}, ("start().log_metrics", ({"loss": 1.25},), {"step": 7})),
        ("mlflow", MLFlowLogger, {"experiment_name": "p"}, ("log_metrics", ({"loss": 1.25},), {"step": 7})),
    ],
)
def test_services_get_values_and_a_config_without_secrets(monkeypatch, config, package, logger_class, options, sent):
    recorder = Recorder(package)
    monkeypatch.setitem(sys.modules, package, recorder)
    logger = logger_class(**options)
    logger.log_config(config)
    logger.log("loss", torch.tensor(1.25), 7)
    logger.close()
    assert sent in recorder.calls
    assert all(secret not in str(recorder.calls) for secret in ("abc123", "hf_secret", "letmein"))
    assert recorder.calls[-1][0] in ("finish", "start().end", "end_run")


@pytest.mark.parametrize(("package", "logger_class"), [("wandb", WandBLogger), ("mlflow", MLFlowLogger)])
def test_a_missing_package_says_how_to_install_it(monkeypatch, package, logger_class):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        logger_class()


def test_only_rank_zero_writes(monkeypatch, tmp_path, config):
    monkeypatch.setattr("torchtune.training.metric_logging.get_world_size_and_rank", lambda: (2, 1))
    logger = DiskLogger(str(tmp_path / "logs"))
    logger.log("loss", 1.0, 1)
    logger.log_config(config)
    logger.close()
    assert not (tmp_path / "logs").exists()
    assert not (tmp_path / "run").exists()


def test_nested_keys_are_joined():
    assert flatten_dict({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    assert flatten_dict({"a": {"b": 1}}, sep="/", parent_key="x") == {"x/a/b": 1}
