"""Kills a run of the quickstart at random moments, resumes it each time, and compares it with a run that was never killed.

    OMP_NUM_THREADS=1 python tools/soak.py --kills 200 --work soak

Each attempt is a process forked from this one, which has imported what a run needs, so an attempt starts in a second; what is
killed is the real recipe with the quickstart's config, made shorter. A third of the kills come while a checkpoint is
written, a sixth while a run starts, the others at any step. In the end every step's loss and gradient norm, also of steps that were
run more than once, and the bytes of the last weights have to be those of the run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAVE_EVERY = 3
COMMON = [
    "epochs=2", "batch_size=2", "log_every_n_steps=1", "eval_tool_calls=null", "dataset_val=null",
    f"save_every_n_steps={SAVE_EVERY}", "checkpointer.keep_last_n_checkpoints=2", "log_level=WARNING",
]  # fmt: skip
METHODS = {
    "full": ("tool_calling", []),
    "lora": ("tool_calling_lora", ["model.lora_dropout=0.1", "save_adapter_weights_only=true"]),
    "lora-merged": ("tool_calling_lora", ["model.lora_dropout=0.1"]),
}
DATA: dict[str, list[str]] = {
    "rows": [],
    "packed": ["dataset.packed=true"],
    "stream": ["dataset.streaming=true", "dataset.shuffle_buffer=64"],
    "packed-stream": ["dataset.streaming=true", "dataset.shuffle_buffer=64", "dataset.packed=true"],
}


def preload() -> None:
    """Imports what a run needs, before the first fork."""
    sys.path.insert(0, str(ROOT))
    import datasets  # noqa: F401
    import tokenizers  # noqa: F401

    import torchtune.datasets
    import torchtune.models.qwen2
    import torchtune.models.qwen2_5
    import torchtune.training.metric_logging  # noqa: F401
    from recipes import finetune  # noqa: F401

    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if (
        others := sorted(name for name in threads if not name.startswith(("python", "jemalloc")))
        or threads.count("python") > 1
    ):
        raise RuntimeError(f"Threads run already ({others}), so forks would not be safe; set OMP_NUM_THREADS=1")


def start(config: str, options: list[str], log: Path) -> int:
    """Forks a run; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [
            "finetune.py",
            "--config",
            str(ROOT / "recipes" / "configs" / "quickstart" / f"{config}.yaml"),
            *options,
        ]
        runpy.run_path(str(ROOT / "recipes" / "finetune.py"), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Attempt:
    """A forked run that is watched from outside.

    Args:
        config: name of the quickstart's config.
        options: overrides of it.
        out: its output folder.
    """

    def __init__(self, config: str, options: list[str], out: Path) -> None:
        self.out = out
        resume = f"resume_from_checkpoint={str(bool(checkpoints(out))).lower()}"
        self.log = out.with_suffix(".log")
        self.pid = start(config, [*options, f"output_dir={out}", resume], self.log)
        self.status: int | None = None

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def until(self, reached: Any) -> None:
        while self.running() and not reached():
            time.sleep(0.003)

    def kill(self) -> bool:
        """Whether it was still there to be killed."""
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self.status not in (0, -signal.SIGKILL):
            sys.exit(f"An attempt ended with status {self.status}:\n{self.log.read_text()[-4000:]}")
        return self.status == -signal.SIGKILL


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints in a folder."""
    return list(out.glob("*/torchtune_checkpoint.json"))


def saved_step(out: Path) -> int:
    """The step that the next attempt goes on from."""
    steps = [int(path.parent.name[5:]) for path in checkpoints(out) if path.parent.name.startswith("step_")]
    return max(steps, default=0)


def lines(out: Path) -> int:
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def metrics(out: Path) -> dict[int, set[tuple[float, float]]]:
    """By step, each loss and gradient norm that was logged; one of each, if nothing went wrong."""
    found: dict[int, set[tuple[float, float]]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], set()).add((row["loss"], row["grad_norm"]))
    return found


def soak(config: str, options: list[str], out: Path, kills: int, steps: int, rng: random.Random) -> dict[str, int]:
    """Starts a run until it was killed so often, then lets it end.

    Returns:
        Number of kills by where they came.
    """
    counts, unfinished = {"at a step": 0, "in a save": 0, "while it starts": 0}, 0
    began = time.monotonic()
    starting = 2.0
    while (done := sum(counts.values())) < kills:
        if not checkpoints(out):  # the next attempt starts anew
            (out / "metrics.jsonl").unlink(missing_ok=True)
        saved, before = saved_step(out), lines(out)
        # As many steps further on as lets the run last for the kills that are left; a save must still come after them.
        left = steps - saved - 4 * SAVE_EVERY
        ahead = max(0, min(left, round(rng.uniform(0, 2) * left / (kills - done))))
        where = rng.choices(list(counts), (3, 2, 1))[0] if left > 0 else "at a step"
        attempt, born = Attempt(config, options, out), time.monotonic()
        if where == "while it starts":
            time.sleep(rng.uniform(0, starting))
        else:
            attempt.until(lambda target=before + ahead: lines(out) > target)
            starting = min(10.0, (time.monotonic() - born)) if ahead == 0 else starting
            if where == "in a save":
                attempt.until(lambda: any(out.glob(".*.tmp")))
            time.sleep(rng.uniform(0, 0.06))
        if attempt.kill():
            counts[where] += 1
            unfinished += any(out.glob(".*.tmp"))
        else:
            sys.exit(f"The run ended after {done} kills, too early for {kills}: give it more --steps")
        if (done + 1) % 10 == 0:
            print(f"{done + 1} kills, {saved_step(out)} steps, {time.monotonic() - began:.0f} s", flush=True)
    last = Attempt(config, options, out)
    last.until(lambda: False)
    last.kill()
    return {**counts, "of these with an unfinished save": unfinished}


def last_weights(out: Path) -> dict[str, bytes]:
    folder = max((path.parent for path in checkpoints(out)), key=lambda path: path.stat().st_mtime_ns)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, help="optimizer steps of the run; three for each kill by default")
    parser.add_argument("--method", choices=METHODS, default="full")
    parser.add_argument("--data", choices=DATA, default="rows")
    parser.add_argument(
        "--async-saves", action="store_true", help="save in the background, by torch's distributed checkpoint"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--work", type=Path, default=Path("soak"), help="folder for the two runs; what is in it is deleted"
    )
    args = parser.parse_args()

    steps = (args.steps or 3 * args.kills) // 2 * 2
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    work = args.work.resolve()
    os.environ["HF_DATASETS_CACHE"] = str(work / "cache")  # so that kills come while it is made, too
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    preload()
    config, options = METHODS[args.method]
    options = [*COMMON, *options, *DATA[args.data], f"max_steps_per_epoch={steps // 2}"]
    options += ["enable_async_checkpointing=true"] if args.async_saves else []

    counts = soak(config, options, work / "killed", args.kills, steps, random.Random(args.seed))
    whole = Attempt(config, options, work / "whole")
    whole.until(lambda: False)
    whole.kill()
    expected, found = metrics(work / "whole"), metrics(work / "killed")
    wrong = [step for step in expected if found.get(step) != expected[step]]
    again = lines(work / "killed") - len(found)
    print(f"Kills: {args.kills} ({', '.join(f'{count} {where}' for where, count in counts.items())})")
    print(
        f"Steps: {len(found)} of {steps}, and {again} run again; losses and norms differ at {len(wrong)} {wrong[:10]}"
    )
    same = last_weights(work / "killed") == last_weights(work / "whole")
    print(f"Bytes of the last weights: {'the same' if same else 'others'}")
    if wrong or not same or len(expected) != steps:
        sys.exit(1)


if __name__ == "__main__":
    main()
