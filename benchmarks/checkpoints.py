"""Loading and saving a checkpoint of about 1 GB beside transformers: seconds, and memory beyond the mapped file.

OMP_NUM_THREADS=1 python benchmarks/checkpoints.py [--gb 1] [--rounds N]

A Llama with random bf16 weights in Hugging Face's layout, on local disk, its file in the page cache. Each contender works in a
new process; they take turns in random order, and medians are given: time of the processor and of the clock, and what the
process's own memory (not the mapped file) grew by. Saving is compared with writing and flushing as many bytes. Before each, the output folder is
emptied and the disk has nothing left to write.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = """
import json, os, sys, time
def own_mb():
    return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("RssAnon"))
def report(start, before):
    now = {"cpu": time.process_time() - start[1], "clock": time.perf_counter() - start[0], "mb": own_mb() - before}
    print(json.dumps(now))
def begin():
    return (time.perf_counter(), time.process_time()), own_mb()
folder, out, sizes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
import torch
"""
OURS = """
from torchtune import training
from torchtune.models.llama3 import llama3
def load():
    checkpointer = training.FullModelHFCheckpointer(folder, [], "LLAMA3", out)
    weights = checkpointer.load_checkpoint()[training.MODEL_KEY]
    with training.set_default_dtype(torch.bfloat16), torch.device("meta"):
        model = llama3(**sizes)
    training.load_from_full_model_state_dict(model, weights, torch.device("cpu"), strict=True)
    return checkpointer, model
"""
WORKS = {
    "load, ours": COMMON + OURS + "start, before = begin(); kept = load(); report(start, before)",
    "load, transformers": COMMON
    + "from transformers import AutoModelForCausalLM, LlamaForCausalLM\n"
    + "start, before = begin(); model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16); report(start, before)",
    "save, ours": COMMON + OURS + "checkpointer, model = load()\nstate = {'model': model.state_dict()}\n"
    "start, before = begin(); checkpointer.save_checkpoint(state, epoch=0); report(start, before)",
    "save, transformers": COMMON
    + "from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)\n"
    + "start, before = begin(); model.save_pretrained(out + '/hf'); os.sync(); report(start, before)",
    "the disk": COMMON
    + "size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)); block = os.urandom(1 << 20)\n"
    "start, before = begin()\n"
    "with open(out + '/bytes', 'wb') as file:\n"
    "    for _ in range(size >> 20): file.write(block)\n"
    "    file.flush(); os.fsync(file.fileno())\n"
    "report(start, before)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    layers = max(1, round(options.gb * 8))  # 51 M parameters, 0.1 GB, a layer
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, rope_theta=500_000.0, tie_word_embeddings=False, max_position_embeddings=2048,
    )  # fmt: skip
    sizes = {
        "vocab_size": 32_000, "num_layers": layers, "num_heads": 32, "num_kv_heads": 8, "embed_dim": 2048,
        "max_seq_len": 2048, "intermediate_dim": 5632,
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WORKS}
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "base", Path(temporary) / "out"
        out.mkdir()
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
        for turn in range(options.rounds + 1):
            for name in random.Random(turn).sample(sorted(WORKS), len(WORKS)):
                os.sync()
                time.sleep(2)  # deleting a gigabyte goes on after the command, and slows down who writes next
                command = [sys.executable, "-c", WORKS[name], str(folder), str(out), json.dumps(sizes)]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode:
                    raise SystemExit(result.stderr)
                shutil.rmtree(out)
                out.mkdir()
                if turn:
                    found[name].append(json.loads(result.stdout.splitlines()[-1]))
    print(f"{size:.2f} GB")
    for name, runs in found.items():
        row = {key: round(statistics.median(run[key] for run in runs), 2) for key in ("cpu", "clock", "mb")}
        clock = sorted(run["clock"] for run in runs)
        print(json.dumps({"work": name, **row, "from": round(clock[0], 2), "to": round(clock[-1], 2)}))


if __name__ == "__main__":
    main()
