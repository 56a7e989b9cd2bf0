"""Metrics arrive where they are sent, and secrets stay at home."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

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
    TrackioLogger,
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


def log_run(folder, losses, start=1, **settings):
    logger = StdoutLogger()
    logger.log_config(OmegaConf.create({"output_dir": str(folder), "secret_token": "abc", **settings}))
    for step, loss in enumerate(losses, start):
        logger.log_dict({"loss": loss, "lr": 0.1}, step=step)
    logger.log("val_loss", 2.5, step=start)
    logger.close()


def test_a_run_leaves_its_metrics_a_page_and_a_picture(tmp_path):
    log_run(tmp_path, [3.0, 2.0, float("nan")])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["lr"]) for row in rows[:3]] == [(1, 0.1), (2, 0.1), (3, 0.1)]
    page = (tmp_path / "summary.html").read_text()
    assert page.count("<svg") == 2  # losses, and the learning rate
    assert "<td>loss</td><td>3</td><td>2</td><td>2</td><td>3</td><td>2.5</td><td>2</td>" in page
    assert "output_dir" in page
    assert "abc" not in page
    assert "http" not in page.replace("<!doctype html>", "")
    image = pytest.importorskip("PIL.Image").open(tmp_path / "loss_curve.png")
    assert image.size == (1440, 600)
    assert (37, 99, 235) in {colour for _, colour in image.getcolors(1 << 20)}


@pytest.mark.parametrize(
    ("values", "least", "expected"),
    [
        ([0.375, 1.844], 0.0, [0.0, 0.5, 1.0, 1.5, 2.0]),
        ([1, 28], 1.0, [0, 10, 20, 30]),
        ([1, 2], 1.0, [1, 2]),
        ([0.1, 0.3], 0.0, [0.1, 0.15, 0.2, 0.25, 0.3]),
        ([-1.2e-4, 2e-4], 0.0, [-2e-4, -1e-4, 0.0, 1e-4, 2e-4]),
        ([3, 3], 1.0, [2, 3, 4]),
    ],
)
def test_axes_have_round_numbers(values, least, expected):
    from torchtune.training._run_summary import _ticks

    assert _ticks(values, least) == pytest.approx(expected)


def test_names_of_curves_do_not_touch_and_all_lines_are_in_the_picture():
    from torchtune.training._run_summary import chart

    names = ["reward", "eval/reward", *(f"reward/{kind}Reward" for kind in ("ExactCalls", "Outcome", "CallArguments"))]
    shapes = chart({name: [(0, 0.1), (7, number + 0.3)] for number, name in enumerate(names)})
    texts = [(where, text) for kind, where, text in shapes if kind == "text" and text in names]
    assert [text for _, text in texts] == names
    for (x, y, _), text in texts:
        assert x + 6.5 * len(text) <= 720
        assert all(x + 6.5 * len(text) < to or to <= x for (to, at, _), _ in texts if at == y)
    drawn = [point for kind, where, _ in shapes if kind == "line" for point in where]
    assert all(0 <= x <= 720 and 0 <= y <= 300 for x, y in drawn)


def test_a_resumed_run_goes_on_with_its_curve_and_a_new_one_starts_anew(tmp_path):
    from torchtune.training._run_summary import read_curves

    log_run(tmp_path, [3.0, 2.0])
    log_run(tmp_path, [1.5, 1.0], start=2, resume_from_checkpoint=True)
    assert read_curves(tmp_path / "metrics.jsonl")["loss"] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    log_run(tmp_path, [9.0])
    assert read_curves(tmp_path / "metrics.jsonl")["loss"] == [(1, 9.0)]


def test_a_line_that_was_cut_off_is_no_end_of_a_resumed_run(tmp_path):
    from torchtune.training._run_summary import read_curves

    log_run(tmp_path, [3.0, 2.0])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-30])
    log_run(tmp_path, [1.5], start=2, resume_from_checkpoint=True)
    assert read_curves(path)["loss"][0] == (1, 3.0) and read_curves(path)["loss"][-1] == (2, 1.5)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_disk_at_a_metric_is_told_once_and_ends_no_run(tmp_path, config, caplog):
    logger = DiskLogger(str(tmp_path), filename="log.txt")
    logger.log_config(config)
    for file in (logger, logger._summary):
        file._file.close()
        file._file = open("/dev/full", "w")  # noqa: SIM115
    logger.log("loss", 2.0, step=1)
    logger.log("loss", 1.0, step=2)
    logger.close()
    assert [r.message.split(",")[0] for r in caplog.records if r.levelname == "WARNING"] == ["Metrics can't be written"]


def test_wandb_keeps_an_offline_run_on_disk(tmp_path, config, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandBLogger(project="test", log_dir=str(tmp_path / "wandb_logs"))
    logger.log_config(config)
    logger.log_dict(VALUES, step=1)
    logger.close()
    files = list((tmp_path / "wandb_logs").rglob("*.wandb"))
    assert len(files) == 1
    content = files[0].read_bytes()
    assert b"global_step" in content
    assert b"abc123" not in content and b"letmein" not in content


def test_mlflow_keeps_runs_in_a_local_store(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where artifacts of a database go
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    logger = MLFlowLogger(experiment_name="test", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", run_name="one")
    logger.log_config(config)
    logger.log_dict(VALUES, step=1)
    run_id = mlflow.active_run().info.run_id
    logger.close()
    run = mlflow.get_run(run_id)
    assert run.data.metrics == {"loss": 1.25, "lr": 0.5, "norm": 2.0}
    assert run.data.params["tokenizer.path"] == "t.model"
    assert run.data.params["metric_logger.api_key"] == "<hidden>"


def test_trackio_keeps_runs_in_a_local_folder(tmp_path, config, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pytest.importorskip("trackio")
    logger = TrackioLogger(project="test", name="one")
    logger.log_config(config)
    logger.log_dict(VALUES, step=1)
    logger.close()
    assert list(tmp_path.rglob("*.db")) + list(tmp_path.rglob("*.jsonl")) != []


def test_comet_keeps_an_offline_run_on_disk(tmp_path, config, monkeypatch):
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "comet"))
    logger = CometLogger(project="test", online=False, log_code=False)
    logger.log_config(config)
    logger.log_dict(VALUES, step=1)
    logger.close()
    assert list((tmp_path / "comet").glob("*.zip")) != []
