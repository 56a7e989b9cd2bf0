"""Start-up: seconds and memory from the command to its end.

OMP_NUM_THREADS=1 python benchmarks/startup.py [--rounds N]

Each command is a process of its own; they take turns, and medians of five are given: time of the processor, of the clock, and
peak memory. ``first step`` is a whole run of one optimizer step on the quickstart's model (0.9 M parameters), without a
checkpoint of it; beside it, the same step written with transformers alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "recipes" / "quickstart" / "model"
TRANSFORMERS = """
import json, sys, torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer
model_dir, data = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(model_dir)
rows = load_dataset("json", data_files=data, split="train")
def collate(batch):
    texts = [json.dumps(row["messages"]) for row in batch]
    made = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=640)
    return {**made, "labels": made["input_ids"]}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model(**next(iter(DataLoader(rows, batch_size=8, collate_fn=collate)))).loss.backward()
optimizer.step()
"""
STEP = [
    "epochs=1", "max_steps_per_epoch=1", "eval_tool_calls=null", "dataset_val=null", "save_every_n_epochs=null", "check_data=false",
]  # fmt: skip


def commands(out: str) -> dict[str, list[str]]:
    tune = [sys.executable, "-m", "torchtune"]
    return {
        "import torchtune": [sys.executable, "-c", "import torchtune"],
        "tune --help": [*tune, "--help"],
        "tune ls": [*tune, "ls"],
        "import torch": [sys.executable, "-c", "import torch"],
        "first step": [*tune, "run", "full_finetune_single_device", "--config", "quickstart/tool_calling", *STEP, f"output_dir={out}"],
        "first step, transformers": [
            sys.executable, "-c", TRANSFORMERS, str(MODEL), str(ROOT / "recipes" / "quickstart" / "data" / "train.jsonl"),
        ],
    }  # fmt: skip


def measure(command: list[str], folder: str) -> dict[str, float]:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with {status}")
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "clock": time.perf_counter() - started,
        "mb": usage.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        works = commands(f"{folder}/out")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
        for turn in range(options.rounds + 1):
            for name, command in works.items():
                measured = measure(command, folder)
                if turn:
                    found[name].append(measured)
    for name, runs in found.items():
        row = {key: round(statistics.median(run[key] for run in runs), 2) for key in ("cpu", "clock", "mb")}
        print(json.dumps({"work": name, **row}))


if __name__ == "__main__":
    main()
