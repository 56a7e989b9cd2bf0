"""Training on a GPU beside transformers and peft: tokens a second, share of the GPU's peak (MFU), peak memory.

python benchmarks/gpu.py

The shape of Llama 3.2 1B with random weights, bf16, compiled, rows of 4,096 tokens without padding, as packing fills them: full,
LoRA and QLoRA. Contenders take turns, each in a process of its own. QLoRA beside needs bitsandbytes. ``--tiny --device cpu``
tries the script out. ``--peak`` is the GPU's bf16 peak in TFLOP/s, for GPUs that :data:`PEAKS` doesn't name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from typing import Any

import training
from _turns import SIZES, median, ratio, turns

WORKS = {"full": "full-bf16-compiled", "lora": "lora-bf16-compiled", "qlora": "qlora-bf16-compiled"}
#: Dense bf16 TFLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165, "3090": 71}


def flops_per_token(method: str, sizes: dict[str, int], sequence: int) -> float:
    """Of forward and backward pass; frozen weights have no gradient, recomputation doesn't count, attention is causal."""
    dim, head = sizes["dim"], sizes["dim"] // sizes["heads"]
    layer = 2 * dim * dim + 2 * dim * head * sizes["kv_heads"] + 3 * dim * sizes["hidden"]
    weights = sizes["layers"] * layer + dim * sizes["vocab"]
    return (6 if method == "full" else 4) * weights + 6 * sizes["layers"] * dim * sequence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=4096)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, help="TFLOP/s")
    parser.add_argument("--tiny", action="store_true", help="a small model")
    options = parser.parse_args()
    import torch

    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    peak = options.peak or next((value for key, value in PEAKS.items() if key in name), None)
    sizes = SIZES if options.tiny else training.LARGE
    shared = [f"--{key}={getattr(options, key)}" for key in ("steps", "batch", "sequence", "device")]
    shared += [] if options.tiny else ["--large"]
    tokens = options.batch * options.sequence * options.steps
    print(json.dumps({"device": name, "torch": torch.__version__, "peak TFLOP/s": peak}))
    for method in [options.only] if options.only else WORKS:
        sides = ["ours", "transformers"]
        if method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
            sides.remove("transformers")
        works = {side: [*shared, f"--only={WORKS[method]}", f"--worker={side}"] for side in sides}
        found = turns(training.__file__, works, options.rounds)
        row: dict[str, Any] = {"work": method}
        if len(sides) == 2:
            row["faster"] = round(ratio(found["ours"], found["transformers"], "clock"), 2)
        for side, runs in found.items():
            speed = tokens / median(runs, "clock")
            row[f"{side} tokens/s"] = round(speed)
            row[f"{side} GB"] = round(runs[-1]["count"] or runs[-1]["gb"], 2)
            if peak:
                row[f"{side} MFU"] = round(speed * flops_per_token(method, sizes, options.sequence) / (peak * 1e12), 3)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
