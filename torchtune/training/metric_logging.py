"""Metric loggers: the terminal, a file, TensorBoard, and services, each imported when it is made.

Only rank 0 writes. Keys and tokens in a config are never logged or saved. Whichever is chosen, the output folder of a run
gets ``metrics.jsonl``, and at its end ``summary.html`` and, where Pillow is installed, ``loss_curve.png``.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, Union

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from typing_extensions import Protocol

from torchtune.config._secrets import without_secrets
from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training._run_summary import RunSummary

_log = logging.getLogger("torchtune")

Scalar = Union[torch.Tensor, np.ndarray, int, float]  # noqa: UP007 (the recorded alias is a Union)


def save_config(config: DictConfig) -> Path:
    """The path of ``torchtune_config.yaml`` in the config's ``output_dir``, where the config is written.

    Args:
        config: the run's config; it has ``output_dir``.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "torchtune_config.yaml"
    OmegaConf.save(OmegaConf.create(without_secrets(OmegaConf.to_container(config))), path)
    return path


def flatten_dict(d: dict[str, Any], *, sep: str = ".", parent_key: str = "") -> dict[str, Any]:
    """A nested dictionary as a flat one: value by path; lists are values.

    Args:
        d: the dictionary.
        sep: put between the keys of a path.
        parent_key: put before every key.

    Example:
        >>> flatten_dict({"model": {"dim": 4}, "lr": 1})
        {'model.dim': 4, 'lr': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in d.items():
        path = f"{parent_key}{sep}{key}" if parent_key else key
        if isinstance(value, dict):
            flat.update(flatten_dict(value, sep=sep, parent_key=path))
        else:
            flat[path] = value
    return flat


class MetricLoggerInterface(Protocol):
    """What recipes ask of a metric logger."""

    def log(self, name: str, data: Scalar, step: int) -> None:
        """Log one value.

        Args:
            name: its name.
            data: a number.
            step: number of the optimizer step.
        """

    def log_config(self, config: DictConfig) -> None:
        """Log the run's config, and save it beside the checkpoints.

        Args:
            config: the config.
        """

    def log_dict(self, payload: Mapping[str, Scalar], step: int) -> None:
        """Log several values of a step.

        Args:
            payload: numbers by name.
            step: number of the optimizer step.
        """

    def close(self) -> None:
        """Write what is left and let go of files and connections."""


class _Logger(MetricLoggerInterface):
    """The parts that loggers share: rank 0 writes, the config is saved, closing is for all."""

    def __init__(self) -> None:
        _, self.rank = get_world_size_and_rank()
        self._active = self.rank == 0
        self._summary: RunSummary | None = None
        self._told = False

    @contextmanager
    def _written(self) -> Iterator[None]:
        """A metric that can't be written is told once, and ends no run: whether it can go on, its checkpoints tell."""
        try:
            yield
        except OSError as error:
            if not self._told:
                _log.warning("Metrics can't be written, and the run goes on without: %s", error)
            self._told = True

    def log(self, name: str, data: Scalar, step: int) -> None:
        self.log_dict({name: data}, step)

    def log_dict(self, payload: Mapping[str, Scalar], step: int) -> None:
        if not self._active:
            return
        values = {name: data.item() if hasattr(data, "item") else data for name, data in payload.items()}
        with self._written():
            self._write(values, step)
        if self._summary is not None:
            with self._written():
                self._summary.add(values, step)

    def log_config(self, config: DictConfig) -> None:
        """Save the config to the output folder, and log it where the logger has a place for it."""
        if self._active:
            path = save_config(config)
            _log.info("Wrote the config to %s", path)
            self._write_config(without_secrets(OmegaConf.to_container(config, resolve=True)), path)
            resumed = bool(config.get("resume_from_checkpoint"))
            self._summary = RunSummary(Path(config.output_dir), path.read_text(encoding="utf-8"), resumed)

    def close(self) -> None:
        if self._active:
            self._active = False
            with self._written():
                self._close()
            if self._summary is not None:
                with self._written():
                    self._summary.close()

    def __del__(self) -> None:
        if getattr(self, "_active", False) and not sys.is_finalizing():
            self.close()

    def _write(self, values: dict[str, float | int], step: int) -> None:
        raise NotImplementedError

    def _write_config(self, config: dict[str, Any], path: Path) -> None:
        pass

    def _close(self) -> None:
        pass


def _line(values: dict[str, float | int], step: int) -> str:
    return f"Step {step} | " + " ".join(f"{name}:{value}" for name, value in values.items()) + " \n"


class DiskLogger(_Logger):
    """Log to a file.

    Args:
        log_dir: its folder, made if need be.
        output_fmt: ``txt``: a line ``Step 3 | loss:1.25 lr:0.1``; ``jsonl``: one JSON object a line.
        filename: its name; ``log_<seconds>.<format>`` by default.
        **kwargs: ignored.

    Raises:
        ValueError: if the format isn't one of these.
    """

    def __init__(self, log_dir: str, output_fmt: str = "txt", filename: str | None = None, **kwargs: Any) -> None:
        if output_fmt not in ("txt", "jsonl"):
            raise ValueError(f"metric_logger.output_fmt is {output_fmt!r}; expected 'txt' or 'jsonl'")
        super().__init__()
        self.log_dir = Path(log_dir)
        self.output_fmt = output_fmt
        self._file_name = self.log_dir / (filename or f"log_{int(time.time())}.{output_fmt}")
        self._file: TextIO | None = None
        if self._active:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._file = self._file_name.open("a", encoding="utf-8")
            _log.info("Writing logs to %s", self._file_name)

    def path_to_log_file(self) -> Path:
        """The file's path."""
        return self._file_name

    def _write(self, values: dict[str, float | int], step: int) -> None:
        assert self._file is not None
        text = _line(values, step) if self.output_fmt == "txt" else json.dumps({"step": step, **values}) + "\n"
        self._file.write(text)
        self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


class StdoutLogger(_Logger):
    """Log to the terminal.

    Args:
        *args: ignored.
        **kwargs: ignored.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def _write(self, values: dict[str, float | int], step: int) -> None:
        sys.stdout.write(_line(values, step))

    def _close(self) -> None:
        sys.stdout.flush()


def _require(package: str, install: str) -> Any:
    """Import a logger's package, or say how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is needed for this metric logger and isn't installed: pip install {install}"
        ) from error


class WandBLogger(_Logger):
    """Log to Weights & Biases (``WANDB_MODE=offline`` keeps all on disk).

    Args:
        project: name of the project.
        entity: user or team.
        group: group of runs.
        log_dir: folder for its files.
        **kwargs: for ``wandb.init``.

    Raises:
        ImportError: if wandb isn't installed.
    """

    def __init__(
        self,
        project: str = "torchtune",
        entity: str | None = None,
        group: str | None = None,
        log_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._wandb = _require("wandb", "wandb")
        super().__init__()
        if not self._active:
            return
        if log_dir is not None:
            Path(log_dir).mkdir(parents=True, exist_ok=True)
        if self._wandb.run is None:
            settings = {"reinit": True, "resume": "allow", "dir": log_dir, **kwargs}
            self._wandb.init(project=project, entity=entity, group=group, **settings)
        self._wandb.define_metric("global_step")
        self._wandb.define_metric("*", step_metric="global_step", step_sync=True)

    def _write(self, values: dict[str, float | int], step: int) -> None:
        self._wandb.log({**values, "global_step": step})

    def _write_config(self, config: dict[str, Any], path: Path) -> None:
        self._wandb.config.update(config, allow_val_change=True)
        self._wandb.save(str(path), base_path=str(path.parent), policy="now")

    def _close(self) -> None:
        self._wandb.finish()


class TensorBoardLogger(_Logger):
    """Log to TensorBoard's files.

    Args:
        log_dir: folder for them.
        organize_logs: make a subfolder ``run_<rank>_<seconds>`` for this run.
        **kwargs: ignored.

    Raises:
        ImportError: if tensorboard isn't installed.
    """

    def __init__(self, log_dir: str, organize_logs: bool = True, **kwargs: Any) -> None:
        writer = _require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None
        super().__init__()
        if self._active:
            self.log_dir = os.path.join(log_dir, f"run_{self.rank}_{time.time()}") if organize_logs else log_dir
            self._writer = writer(log_dir=self.log_dir)

    def _write(self, values: dict[str, float | int], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step, new_style=True)

    def _write_config(self, config: dict[str, Any], path: Path) -> None:
        self._writer.add_text("config", f"```yaml\n{path.read_text(encoding='utf-8')}\n```")

    def _close(self) -> None:
        self._writer.close()


class CometLogger(_Logger):
    """Log to Comet.

    Args:
        api_key: Comet's key; better set ``COMET_API_KEY``.
        workspace: workspace of the run.
        project: project of the run.
        experiment_key: key of an experiment, to append to it or to name a new one.
        mode: ``get_or_create``, ``get`` or ``create``.
        online: False keeps all on disk.
        experiment_name: name of the run.
        tags: tags of the run.
        log_code: store the source files.
        **kwargs: for Comet's ``ExperimentConfig``.

    Raises:
        ImportError: if comet_ml isn't installed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        workspace: str | None = None,
        project: str | None = None,
        experiment_key: str | None = None,
        mode: str | None = None,
        online: bool | None = None,
        experiment_name: str | None = None,
        tags: list[str] | None = None,
        log_code: bool = True,
        **kwargs: dict[str, Any],
    ) -> None:
        comet = _require("comet_ml", "comet-ml")
        super().__init__()
        self.experiment: Any = None
        if self._active:
            settings = comet.ExperimentConfig(name=experiment_name, tags=tags, log_code=log_code, **kwargs)
            where = {"api_key": api_key, "workspace": workspace, "project": project, "experiment_key": experiment_key}
            self.experiment = comet.start(**where, mode=mode, online=online, experiment_config=settings)

    def _write(self, values: dict[str, float | int], step: int) -> None:
        self.experiment.log_metrics(values, step=step)

    def _write_config(self, config: dict[str, Any], path: Path) -> None:
        self.experiment.log_parameters(config)
        self.experiment.log_asset(str(path), file_name=path.name)

    def _close(self) -> None:
        self.experiment.end()


class MLFlowLogger(_Logger):
    """Log to MLflow.

    Args:
        experiment_name: name of the experiment; ``MLFLOW_EXPERIMENT_NAME`` by default.
        tracking_uri: server or folder; ``MLFLOW_TRACKING_URI`` by default.
        run_id: a run to go on with; ``MLFLOW_RUN_ID`` by default.
        run_name: name of the run.

    Raises:
        ImportError: if mlflow isn't installed.
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
    ) -> None:
        self._mlflow = _require("mlflow", "mlflow")
        super().__init__()
        if not self._active:
            return
        if uri := tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
            self._mlflow.set_tracking_uri(uri)
        self._mlflow.set_experiment(experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME"))
        if self._mlflow.active_run() is None:
            self._mlflow.start_run(run_id=run_id or os.environ.get("MLFLOW_RUN_ID"), run_name=run_name)

    def _write(self, values: dict[str, float | int], step: int) -> None:
        self._mlflow.log_metrics(values, step=step)

    def _write_config(self, config: dict[str, Any], path: Path) -> None:
        items = list(flatten_dict(config).items())
        for start in range(0, len(items), 100):  # a server takes at most 100 at once, and 500 characters each
            self._mlflow.log_params({key: str(value)[:500] for key, value in items[start : start + 100]})
        self._mlflow.log_artifact(str(path))

    def _close(self) -> None:
        self._mlflow.end_run()


class TrackioLogger(_Logger):
    """Log to Trackio, a local dashboard with the interface of Weights & Biases.

    Args:
        project: name of the project.
        name: name of the run.
        **kwargs: for ``trackio.init``.

    Raises:
        ImportError: if trackio isn't installed.
    """

    def __init__(self, project: str = "torchtune", name: str | None = None, **kwargs: Any) -> None:
        self._trackio = _require("trackio", "trackio")
        super().__init__()
        if self._active:
            self._run = self._trackio.init(project=project, name=name, **kwargs)

    def _write(self, values: dict[str, float | int], step: int) -> None:
        self._trackio.log(values, step=step)

    def _write_config(self, config: dict[str, Any], path: Path) -> None:
        self._run.config.update(config)

    def _close(self) -> None:
        self._trackio.finish()
