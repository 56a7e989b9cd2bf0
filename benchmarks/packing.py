"""Packing samples into sequences of 4,096 tokens: time, how full, memory.

python benchmarks/packing.py [--trl PYTHON] [--samples N] [--cache FOLDER]

PYTHON is an interpreter that has TRL and datasets installed, such as that of a virtual environment; its ``pack_dataset`` with
``bfd`` is timed beside ours on the same lengths, turn by turn, each in a process of its own. Samples are made before the
clock starts. Memory is what the process grew by while it packed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

SIZE = 4096
ROUNDS = 5

COMMON = """
import json, random, resource, sys, time
rng = random.Random(0)
lengths = [min(max(int(rng.lognormvariate(5.8, 0.9)), 8), 4096) for _ in range(int(sys.argv[1]))]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
OURS = (
    COMMON
    + """
from torchtune.datasets import PackedDataset
base = list(range(4096))
class Samples:
    def __len__(self): return len(lengths)
    def __getitem__(self, i): return {"tokens": base[:lengths[i]], "labels": base[:lengths[i]]}
cache = sys.argv[2] if len(sys.argv) > 2 else None
PackedDataset([Samples()[0]], max_seq_len=4096, packing="best_fit")
before, clock, cpu = peak(), time.perf_counter(), time.process_time()
packs = PackedDataset(Samples(), max_seq_len=4096, packing="best_fit", cache_dir=cache, progress=False)
print(json.dumps({"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu, "mb": peak() - before, "packs": len(packs),
                  "full": sum(lengths) / (len(packs) * 4096)}))
"""
)
TRL = (
    COMMON
    + """
import numpy as np, pyarrow as pa
from datasets import Dataset
from trl.data_utils import pack_dataset
base = np.arange(4096, dtype=np.int32)
offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
values = np.concatenate([base[:n] for n in lengths])
ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
data = Dataset(pa.table({"input_ids": ids, "labels": ids}))
before, clock, cpu = peak(), time.perf_counter(), time.process_time()
packed = pack_dataset(data, 4096, "bfd")
print(json.dumps({"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu, "mb": peak() - before, "packs": len(packed),
                  "full": sum(lengths) / (len(packed) * 4096)}))
"""
)


def timed(python: str, code: str, *arguments: str) -> dict[str, Any]:
    result = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="an interpreter that has TRL")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cache", help="folder for the memory-mapped cache of ours")
    args = parser.parse_args()
    works = {"ours": (sys.executable, OURS, [str(args.samples), *([args.cache] if args.cache else [])])}
    if args.trl:
        works["TRL bfd"] = (args.trl, TRL, [str(args.samples)])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in works}
    for _ in range(args.rounds):
        for name, (python, code, arguments) in works.items():
            found[name].append(timed(python, code, *arguments))
    for name, runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"{name}: {middle['clock']:.2f} s ({middle['cpu']:.2f} s of the processor), {middle['packs']:.0f} packs, "
            f"{middle['full']:.2%} full, {middle['mb']:.0f} MB"
        )
    if args.trl:
        ratios = [theirs["cpu"] / ours["cpu"] for ours, theirs in zip(found["ours"], found["TRL bfd"], strict=True)]
        print(f"TRL : ours, median of {args.rounds} pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
