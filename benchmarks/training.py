"""Training steps beside transformers and peft: tokens a second of the processor, and peak memory.

OMP_NUM_THREADS=1 python benchmarks/training.py [--only full-bf16] [--device cuda] [--sequence 4096] [--rounds N]

A Llama of dim 512, 8 layers, vocabulary 32,000 (or one in the shape of Llama 3.2 1B, with --large), AdamW. A step is forward,
backward and update of one batch. Each contender is a process of its own; they take turns, and medians of five turns are
given. On a GPU the clock counts, on the CPU the processor's time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any

from _turns import SIZES, hf_config, median, our_llama, ratio, serve, turns

# Method, dtype, share of labels that are masked, compiled.
WORKS = {
    "full-bf16": ("full", "bfloat16", 0.0, False),
    "full-bf16-masked": ("full", "bfloat16", 0.6, False),
    "full-bf16-compiled": ("full", "bfloat16", 0.0, True),
    "lora-bf16": ("lora", "bfloat16", 0.0, False),
    "full-fp32": ("full", "float32", 0.0, False),
    "lora-fp32": ("lora", "float32", 0.0, False),
    "lora-bf16-compiled": ("lora", "bfloat16", 0.0, True),
    "qlora-bf16-compiled": ("qlora", "bfloat16", 0.0, True),
}
LARGE = {"vocab": 128_256, "dim": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "hidden": 8192}
RANK, ALPHA = 8, 16


def data(options: argparse.Namespace, masked: float) -> tuple[Any, Any]:
    """Tokens and their own labels, of which a part is masked at the start of each row, as prompts are."""
    import torch

    shape = (options.batch, options.sequence)
    tokens = torch.randint(0, SIZES["vocab"], shape, generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[:, : int(masked * options.sequence)] = -100
    return tokens.to(options.device), labels.to(options.device)


def ours(method: str, dtype: Any, masked: float, compiled: bool, options: argparse.Namespace) -> Callable[[], None]:
    import torch

    from torchtune import training
    from torchtune.modules.loss import LinearCrossEntropyLoss
    from torchtune.modules.peft import get_adapter_params, set_trainable_params

    targets = ["q_proj", "k_proj", "v_proj", "output_proj"]
    training.keep_freed_memory(options.device)  # as the recipes do
    training.fast_fp32_products(options.device, dtype)
    lora = {"lora_attn_modules": targets, "apply_lora_to_mlp": True, "lora_rank": RANK, "lora_alpha": ALPHA}
    lora |= {"quantize_base": True} if method == "qlora" else {}
    with training.set_default_dtype(dtype), torch.device(options.device):
        model = our_llama(None if method == "full" else lora)
    if method != "full":
        set_trainable_params(model, get_adapter_params(model))
    loss_fn = LinearCrossEntropyLoss()
    loss_fn.set_model_output(model)
    if compiled:
        training.compile_model(model, verbose=False)
        training.compile_loss(loss_fn, verbose=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    tokens, labels = data(options, masked)
    labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    losses = training.LossAccumulator(options.device)

    def step() -> None:
        counted = training.count_loss_tokens(labels)
        losses.add(loss_fn(model(tokens), labels), counted).backward()
        done = losses.finish()
        training.scale_grads_(trained, done.grad_scale)
        done.loss.item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def transformers(
    method: str, dtype: Any, masked: float, compiled: bool, options: argparse.Namespace
) -> Callable[[], None]:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(hf_config(), dtype=dtype)
    if method == "qlora":
        from transformers import BitsAndBytesConfig

        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, quantization_config=nf4, device_map=options.device
            )
    if method != "full":
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(
            model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets), autocast_adapter_dtype=False
        )
    model.train()
    if compiled:
        model = torch.compile(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    tokens, labels = data(options, masked)

    def step() -> None:
        loss = model(input_ids=tokens, labels=labels, use_cache=False).loss
        loss.backward()
        loss.item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def worker(options: argparse.Namespace) -> None:
    import torch

    method, dtype, masked, compiled = WORKS[options.only]
    build = {"ours": ours, "transformers": transformers}[options.worker]
    step = build(method, getattr(torch, dtype), masked, compiled, options)

    def work() -> float:
        for _ in range(options.steps):
            step()
        if options.device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() / 1024**3
        return 0.0

    serve(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--large", action="store_true", help="the shape of Llama 3.2 1B")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large:
        SIZES.update(LARGE)
    if options.worker:
        worker(options)
        return
    shared = [f"--{key}={getattr(options, key)}" for key in ("steps", "batch", "sequence", "device")]
    shared += ["--large"] if options.large else []
    key = "clock" if options.device == "cuda" else "cpu"
    tokens = options.batch * options.sequence * options.steps
    for name in [options.only] if options.only else [work for work in WORKS if "lora-bf16-" not in work]:
        works = {side: [*shared, f"--only={name}", f"--worker={side}"] for side in ("ours", "transformers")}
        found = turns(__file__, works, options.rounds)
        row: dict[str, Any] = {"work": name, "faster": round(ratio(found["ours"], found["transformers"], key), 2)}
        for side, runs in found.items():
            memory = runs[-1]["count"] or runs[-1]["gb"]
            row |= {f"{side} tokens/s": round(tokens / median(runs, key)), f"{side} GB": round(memory, 2)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
