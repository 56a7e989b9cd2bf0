"""torch.profiler, set up from a config's ``profiler`` section."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch.profiler import ProfilerActivity, profile, schedule

from torchtune.training._distributed import get_world_size_and_rank

_log = logging.getLogger("torchtune")

PROFILER_KEY = "profiler"
DEFAULT_PROFILER_ACTIVITIES = {ProfilerActivity.CPU, ProfilerActivity.CUDA, ProfilerActivity.XPU}
DEFAULT_SCHEDULE = {"wait_steps": 5, "warmup_steps": 5, "active_steps": 2, "num_cycles": 1}
DEFAULT_TRACE_OPTS = {"profile_memory": False, "with_stack": False, "record_shapes": True, "with_flops": False}
DEFAULT_PROFILE_DIR = "profiler_output"


class DummyProfiler:
    """A profiler that does nothing, for runs without profiling."""

    def __enter__(self) -> DummyProfiler:
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def start(self) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""


def _write_trace(prof: profile, output_dir: Path, metric: str) -> None:
    """One cycle's trace (for chrome://tracing), its table of operators, and on rank 0 its timeline of memory."""
    _, rank = get_world_size_and_rank()
    folder = output_dir / f"iteration_{prof.step_num}"
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    prof.export_chrome_trace(str(folder / f"rank{rank}_trace.json.gz"))
    table = prof.key_averages().table(sort_by=metric, row_limit=-1)
    (folder / f"rank{rank}_key_averages.txt").write_text(table, encoding="utf-8")
    if prof.profile_memory and rank == 0 and torch.cuda.is_available():
        prof.export_memory_timeline(str(folder / f"rank{rank}_memory-timeline.html"))
    _log.info("Wrote the profile of %s in %.1f s", folder, time.monotonic() - start)


def setup_torch_profiler(
    enabled: bool = False,
    cpu: bool = True,
    cuda: bool = True,
    xpu: bool = True,
    hpu: bool = False,
    profile_memory: bool = False,
    with_stack: bool = False,
    record_shapes: bool = True,
    with_flops: bool = False,
    wait_steps: int | None = None,
    warmup_steps: int | None = None,
    active_steps: int | None = None,
    num_cycles: int | None = None,
    output_dir: str | None = None,
) -> tuple[profile | DummyProfiler, DictConfig]:
    """A profiler of a few steps, to be used as a context and stepped after each optimizer step, and its settings.

    Args:
        enabled: False gives a :class:`DummyProfiler`.
        cpu: record the CPU's operators.
        cuda: record the GPU's kernels.
        xpu: record Intel GPUs' kernels.
        hpu: record Gaudi's.
        profile_memory: record allocations.
        with_stack: record the Python lines.
        record_shapes: record the operators' input shapes.
        with_flops: estimate the operators' floating point operations.
        wait_steps: steps before the first cycle.
        warmup_steps: steps of each cycle that are thrown away.
        active_steps: steps of each cycle that are recorded.
        num_cycles: how often it repeats.
        output_dir: folder for the traces, ``profiler_output`` by default.

    Raises:
        ValueError: if nothing is to be recorded.
    """
    if not enabled:
        return DummyProfiler(), DictConfig({"enabled": False})
    wanted = {"CPU": cpu, "CUDA": cuda, "XPU": xpu, "HPU": hpu}
    known = [name for name, use in wanted.items() if use and hasattr(ProfilerActivity, name)]
    activities = [getattr(ProfilerActivity, name) for name in known]
    if not activities:
        raise ValueError(
            "The profiler is enabled with nothing to record: set one of profiler.cpu, .cuda, .xpu, .hpu to true"
        )
    steps: Any = dict(zip(DEFAULT_SCHEDULE, (wait_steps, warmup_steps, active_steps, num_cycles), strict=True))
    if None in steps.values():
        if any(value is not None for value in steps.values()):
            _log.warning("The profiler's schedule is incomplete (%s); all of it is set to %s.", steps, DEFAULT_SCHEDULE)
        steps = DEFAULT_SCHEDULE
    wait, warmup, active, cycles = steps.values()
    options: dict[str, Any] = {
        "profile_memory": profile_memory,
        "with_stack": with_stack or profile_memory,  # the timeline of memory is made from stacks and shapes
        "record_shapes": record_shapes or profile_memory,
        "with_flops": with_flops,
    }
    folder = Path(output_dir or DEFAULT_PROFILE_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    metric = "self_cuda_time_total" if cuda and torch.cuda.is_available() else "self_cpu_time_total"
    profiler = profile(
        activities=activities,
        schedule=schedule(wait=wait, warmup=warmup, active=active, repeat=cycles),
        on_trace_ready=partial(_write_trace, output_dir=folder, metric=metric),
        **options,
    )
    settings: dict[Any, Any] = {"enabled": True, "output_dir": str(folder)}
    settings |= {name.lower(): use for name, use in wanted.items()} | options | steps
    return profiler, DictConfig(settings)
