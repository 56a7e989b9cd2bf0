"""Generation beside transformers: tokens a second of the processor.

OMP_NUM_THREADS=1 python benchmarks/generation.py [--device cuda] [--litgpt]

The Llama of benchmarks/training.py in bf16, greedy, 64 tokens of prompt and 128 new ones. Each contender is a process of its
own; they take turns, and medians of five are given. ``long-cache`` has a cache of 4,096 slots. With ``--litgpt`` litgpt takes
part at batch 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from _turns import SIZES, hf_config, median, our_llama, ratio, serve, turns

PROMPT, NEW = 64, 128
# Batch, slots of the cache.
WORKS = {"batch-1": (1, PROMPT + NEW), "batch-8": (8, PROMPT + NEW), "long-cache": (1, 4096)}


def ours(batch: int, slots: int, device: str) -> Callable[[], float]:
    import torch

    from torchtune import training
    from torchtune.generation import generate

    with training.set_default_dtype(torch.bfloat16), torch.device(device):
        model = our_llama().eval()
    with torch.device(device):
        model.setup_caches(batch, torch.bfloat16, decoder_max_seq_len=slots)
    prompt = torch.randint(0, SIZES["vocab"], (batch, PROMPT), device=device)

    def work() -> float:
        model.reset_caches()
        with torch.inference_mode():
            out, _ = generate(model, prompt, max_generated_tokens=NEW, pad_id=-1, temperature=0, return_logits=False)
        assert out.shape == (batch, PROMPT + NEW)
        return float(out[0, -1])

    return work


def transformers(batch: int, slots: int, device: str) -> Callable[[], float]:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(hf_config(), dtype=torch.bfloat16).eval()
    prompt = torch.randint(0, SIZES["vocab"], (batch, PROMPT), device=device)

    def work() -> float:
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW,
            pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        assert out.shape == (batch, PROMPT + NEW)
        return float(out[0, -1])

    return work


def litgpt(batch: int, slots: int, device: str) -> Callable[[], float]:
    import torch
    from litgpt import GPT, Config
    from litgpt.generate.base import generate

    config = Config(
        block_size=8192, n_layer=SIZES["layers"], n_embd=SIZES["dim"], n_head=SIZES["heads"],
        n_query_groups=SIZES["kv_heads"], intermediate_size=SIZES["hidden"], vocab_size=SIZES["vocab"],
        padded_vocab_size=SIZES["vocab"], norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", bias=False,
        parallel_residual=False, rotary_percentage=1.0, rope_base=500_000,
    )  # fmt: skip
    with torch.device(device):
        model = GPT(config).to(torch.bfloat16).eval()
        model.max_seq_length = slots
        model.set_kv_cache(batch, dtype=torch.bfloat16)
    prompt = torch.randint(0, SIZES["vocab"], (PROMPT,), device=device)

    def work() -> float:
        with torch.inference_mode():
            out = generate(model, prompt, PROMPT + NEW, temperature=0.0)
        assert out.shape == (PROMPT + NEW,)
        return float(out[-1])

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--litgpt", action="store_true", help="it must be installed")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        side, name = options.worker
        serve({"ours": ours, "transformers": transformers, "litgpt": litgpt}[side](*WORKS[name], options.device))
        return
    works = {
        f"{side} {name}": [f"--device={options.device}", "--worker", side, name]
        for name in WORKS
        for side in ("ours", "transformers")
        if (side, name) != ("transformers", "long-cache")  # its cache grows as it fills
    }
    if options.litgpt:
        works["litgpt batch-1"] = [f"--device={options.device}", "--worker", "litgpt", "batch-1"]
    found = turns(__file__, works, options.rounds)
    key = "clock" if options.device == "cuda" else "cpu"
    for name, (batch, _) in WORKS.items():
        mine, other = found[f"ours {name}"], "transformers batch-1" if name == "long-cache" else f"transformers {name}"
        row = {
            "work": name,
            "ours tokens/s": round(batch * NEW / median(mine, key), 1),
            "transformers tokens/s": round(batch * NEW / median(found[other], key), 1),
            "faster": round(ratio(mine, found[other], key), 2),
        }
        if name == "long-cache":
            row["of the short cache"] = round(ratio(mine, found["ours batch-1"], key), 2)
        if name == "batch-1" and options.litgpt:
            row["litgpt tokens/s"] = round(NEW / median(found["litgpt batch-1"], key), 1)
            row["faster than litgpt"] = round(ratio(mine, found["litgpt batch-1"], key), 2)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
