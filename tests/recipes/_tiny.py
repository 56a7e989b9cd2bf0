"""Runs of recipes in this process, on the quickstart's model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
ASSETS = ROOT / "recipes" / "quickstart"
SHORT = {
    "epochs": 2,
    "max_steps_per_epoch": 2,
    "batch_size": 2,
    "log_every_n_steps": 1,
    "eval_tool_calls": None,
    "dataset_val": None,
    "log_level": "WARNING",
    "dataset.split": "train[:32]",
}


def tiny_config(output_dir: Path, name: str = "quickstart/tool_calling", **settings: Any) -> DictConfig:
    """The quickstart's config, short, with settings by dotted key (a double underscore stands for a dot)."""
    cfg = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert isinstance(cfg, DictConfig)
    given = {key.replace("__", "."): value for key, value in settings.items()}
    for key, value in {"output_dir": str(output_dir), "assets": str(ASSETS), **SHORT, **given}.items():
        OmegaConf.update(cfg, key, value, merge=not isinstance(value, (dict, list)), force_add=True)
    cfg.metric_logger.output_fmt = "jsonl"
    cfg.metric_logger.filename = "log.jsonl"
    return cfg


def finetune(cfg: DictConfig, until: int | None = None) -> list[dict[str, float]]:
    """Runs the finetune recipe, to its end or as if it was killed after a step; what it logged in this run."""
    import json

    from recipes.finetune import FinetuneRecipe

    log = Path(cfg.output_dir) / "logs" / "log.jsonl"
    known = len(log.read_text().splitlines()) if log.exists() else 0
    recipe = FinetuneRecipe(cfg)
    recipe.setup()
    if until is None:
        recipe.train()
    else:
        stop_after(recipe, until)
    recipe.cleanup()
    return [json.loads(line) for line in log.read_text().splitlines()[known:]]


def in_processes(cfg: DictConfig, count: int = 2) -> list[dict[str, float]]:
    """Runs the finetune recipe in several processes; what it logged."""
    import json
    import subprocess
    import sys

    folder = Path(cfg.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    command = [sys.executable, "-m", "torchtune", "run", "--nproc-per-node", str(count), "full_finetune_distributed"]
    run = subprocess.run(
        [*command, "--config", str(folder / "config.yaml")], capture_output=True, text=True, cwd=ROOT, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in (folder / "logs" / "log.jsonl").read_text().splitlines()]


class _Killed(Exception):
    pass


def stop_after(recipe: Any, step: int) -> None:
    """Trains, and ends in the middle of the run."""
    save = recipe.save_checkpoint

    def save_and_stop(**kwargs: Any) -> None:
        save(**kwargs)
        if recipe.global_step >= step:
            raise _Killed

    recipe.save_checkpoint = save_and_stop
    try:
        recipe.train()
    except _Killed:
        return
    raise AssertionError(f"no checkpoint after step {step}")


os.environ.setdefault("OMP_NUM_THREADS", "1")
