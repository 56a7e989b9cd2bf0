"""Works that take turns, each in a process of its own, so that time and memory are each one's own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = {"vocab": 32_000, "dim": 512, "layers": 8, "heads": 8, "kv_heads": 4, "hidden": 1536}


def serve(work: Callable[[], float]) -> None:
    """In the worker: does the work each time a line comes, and answers with seconds, what it counts, and peak memory."""
    print("ready", flush=True)
    for _ in sys.stdin:
        clock, cpu = time.perf_counter(), time.process_time()
        counted = work()
        answer = {
            "cpu": time.process_time() - cpu,
            "clock": time.perf_counter() - clock,
            "count": counted,
            "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        }
        print("answer " + json.dumps(answer), flush=True)


def _ask(worker: subprocess.Popen[str], mark: str) -> str:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith(mark):
            return line.removeprefix(mark).strip()
    raise SystemExit(f"a worker ended early (exit {worker.wait()}): {worker.args}")


def turns(script: str, works: dict[str, list[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Starts ``script`` once per work, and lets them work in turn; the first turn of each only warms up.

    Args:
        script: file that calls :func:`serve` when it is given the arguments.
        works: name to arguments.
        rounds: turns that count.
    """
    workers = {
        name: subprocess.Popen(
            [sys.executable, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for name, arguments in works.items()
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in works}
    for worker in workers.values():
        _ask(worker, "ready")
    for turn in range(rounds + 1):
        for name, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            answer = json.loads(_ask(worker, "answer "))
            if turn:
                found[name].append(answer)
    for worker in workers.values():
        worker.communicate()
    return found


def median(runs: list[dict[str, Any]], key: str) -> float:
    """Median over turns."""
    return statistics.median(run[key] for run in runs)


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str = "cpu") -> float:
    """How many times faster ours is: the median of the ratios of turns side by side."""
    return statistics.median(b[key] / a[key] for a, b in zip(ours, theirs, strict=True))


def hf_config() -> Any:
    """The benchmarks' Llama for transformers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=SIZES["vocab"], hidden_size=SIZES["dim"], intermediate_size=SIZES["hidden"],
        num_hidden_layers=SIZES["layers"], num_attention_heads=SIZES["heads"], num_key_value_heads=SIZES["kv_heads"],
        max_position_embeddings=8192, rope_theta=500_000.0, tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip


def our_llama(lora: dict[str, Any] | None = None) -> Any:
    """The same Llama here, with adapters where asked for."""
    from torchtune.models.llama3 import llama3, lora_llama3

    sizes = {
        "vocab_size": SIZES["vocab"], "num_layers": SIZES["layers"], "num_heads": SIZES["heads"], "num_kv_heads": SIZES["kv_heads"],
        "embed_dim": SIZES["dim"], "max_seq_len": 8192, "intermediate_dim": SIZES["hidden"],
    }  # fmt: skip
    return lora_llama3(**lora, **sizes) if lora else llama3(**sizes)
