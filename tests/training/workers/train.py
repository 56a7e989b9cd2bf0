"""A small training run, with options such as ``kind=lora``. Writes the loss of each step to a file.

Run by ``runpy.run_path`` with ``ARGUMENTS`` and ``ENV``, in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from torchtune import training
from torchtune.models.llama3 import llama3, lora_llama3
from torchtune.modules.peft import get_adapter_params, set_trainable_params

SIZES = {"vocab_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32, "max_seq_len": 64}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "peft_type": "LORA"}
EPOCHS, STEPS_PER_EPOCH, ROWS = 2, 5, 42

options = {
    "kind": "full", "batch_size": "4", "kill_at": "0", "resume": "0", "adapter_only": "0", "in_backward": "0",
    "asynchronous": "0", "log": "losses",
    **dict(argument.split("=", 1) for argument in ARGUMENTS),  # noqa: F821
}  # fmt: skip
torch.set_num_threads(1)
device = torch.device("cpu")


def rows() -> list[dict]:
    generator = torch.Generator().manual_seed(5)
    made = [torch.randint(0, 64, (8,), generator=generator) for _ in range(ROWS)]
    return [{"tokens": row, "labels": torch.where(row > 50, -100, row) if i % 2 else row} for i, row in enumerate(made)]


def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([row[key] for row in batch]) for key in ("tokens", "labels")}


def build_model(state: dict) -> torch.nn.Module:
    with torch.device("meta"):
        if options["kind"] == "lora":
            model = lora_llama3(
                ["q_proj", "v_proj"], **SIZES, intermediate_dim=128, lora_rank=4, lora_alpha=8, lora_dropout=0.2
            )
        else:
            model = llama3(**SIZES, intermediate_dim=128, attn_dropout=0.0)
    weights = state[training.MODEL_KEY]
    if options["kind"] == "lora":
        set_trainable_params(model, get_adapter_params(model))
        if training.ADAPTER_KEY in state:
            weights = weights | state[training.ADAPTER_KEY]
        else:
            generator = torch.Generator().manual_seed(0)
            new = {n: torch.randn(p.shape, generator=generator) * 0.1 for n, p in get_adapter_params(model).items()}
            weights = weights | new
    if dist.is_initialized():
        training.shard_model(model, [partial(training.get_shard_conditions)], cpu_offload=False)
    training.load_from_full_model_state_dict(model, weights, device, strict=True)
    training.validate_no_params_on_meta_device(model)
    return model


def build_optimizer(model: torch.nn.Module):
    trained = [p for p in model.parameters() if p.requires_grad]
    if options["in_backward"] == "0":
        return torch.optim.AdamW(trained, lr=1e-2)
    each = {p: torch.optim.AdamW([p], lr=1e-2) for p in trained}
    training.register_optim_in_bwd_hooks(model, each)
    return training.create_optim_in_bwd_wrapper(model, each)


def build_schedule(optimizer):
    steps = {"num_warmup_steps": 2, "num_training_steps": EPOCHS * STEPS_PER_EPOCH}
    if options["in_backward"] == "0":
        return training.get_cosine_schedule_with_warmup(optimizer, **steps)
    first = next(iter(optimizer.optim_map.values()))
    return training.InBackwardSchedule(optimizer, training.get_cosine_schedule_with_warmup(first, **steps))


def main() -> None:
    if int(ENV["WORLD_SIZE"]) > 1:  # noqa: F821
        meet = {"init_method": f"file://{ENV['MEET']}", "rank": int(ENV["RANK"]), "world_size": int(ENV["WORLD_SIZE"])}  # noqa: F821
        dist.init_process_group("gloo", **meet)
    world_size, rank = training.get_world_size_and_rank()
    training.set_seed(0)
    out = Path(options["out"])
    cfg = OmegaConf.create(
        {
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": options["base"],
                "checkpoint_files": ["model.safetensors"],
                "model_type": "LLAMA3",
                "output_dir": str(out),
            },
            "resume_from_checkpoint": options["resume"] == "1",
            "enable_async_checkpointing": options["asynchronous"] == "1",
        }
    )
    client = training.CheckpointClient(cfg)
    state = client.load_base_checkpoint()
    model = build_model(state)
    optimizer = build_optimizer(model)
    schedule = build_schedule(optimizer)
    loader = training.build_dataloader(
        rows(), batch_size=int(options["batch_size"]), collate_fn=collate, seed=1, num_replicas=world_size, rank=rank
    )
    adapter_config = LORA if options["kind"] == "lora" else None
    epochs_run = step = 0
    if options["resume"] == "1":
        if client.resumes_from_distributed:
            state = client.load_distributed_checkpoint(model, optimizer, adapter_config)
        else:
            training.load_from_full_optimizer_state_dict(model, optimizer, state[training.OPT_KEY], device)
        schedule.load_state_dict(state[training.LR_SCHEDULER_KEY])
        epochs_run, step = state[training.EPOCHS_KEY], state[training.STEPS_KEY]
        if training.DATALOADER_KEY in state:
            loader.load_state_dict(state[training.DATALOADER_KEY])
        training.set_rng_state(state[training.RNG_KEY])
    out.mkdir(exist_ok=True)
    log = (out / f"{options['log']}.jsonl").open("a")
    losses = training.LossAccumulator(device)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def save(epoch: int, by_step: bool) -> None:
        progress = training.TrainingProgress(
            0, epochs_run, EPOCHS, -1, step, EPOCHS * STEPS_PER_EPOCH,
            dataloader_state_dict=loader.state_dict() if by_step else None,
            lr_scheduler_state_dict=schedule.state_dict(),
        )  # fmt: skip
        client.save_checkpoint(
            model, optimizer, progress, epoch, adapter_config, options["adapter_only"] == "1",
            dir_prefix="step" if by_step else "epoch",
        )  # fmt: skip

    for epoch in range(epochs_run, EPOCHS):
        training.set_epoch(loader, epoch)
        batches = iter(loader)
        while step < STEPS_PER_EPOCH * (epoch + 1):
            for _ in range(1 if options["in_backward"] == "1" else 2):
                batch = next(batches)
                labels = torch.cat([batch["labels"][:, 1:], torch.full_like(batch["labels"][:, :1], -100)], dim=1)
                tokens = training.count_loss_tokens(labels)
                logits = model(batch["tokens"])
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100
                )
                count = losses.add_normalized if options["in_backward"] == "1" else losses.add
                count(loss, tokens).backward()
            done = losses.finish()
            if options["in_backward"] == "0":
                training.scale_grads_(parameters, done.grad_scale)
                training.clip_grad_norm(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()
            step += 1
            if rank == 0:
                log.write(json.dumps({"step": step, "loss": done.loss.item()}) + "\n")
                log.flush()
            if step == int(options["kill_at"]):
                training.barrier()
                client.wait()
                os.kill(os.getpid(), signal.SIGKILL)
            if step % 2 == 0 and step < STEPS_PER_EPOCH * (epoch + 1):
                save(epoch, by_step=True)
        epochs_run = epoch + 1
        save(epoch, by_step=False)
    if dist.is_initialized():
        dist.destroy_process_group()


main()
