"""Trains tiny models on several ranks, and holds each loss equal to one process's. Run by ``runpy.run_path`` with MEET, RANK, WORLD."""

from __future__ import annotations

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import nn

from torchtune import training
from torchtune.models import llama3, mistral, qwen2, qwen3
from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss
from torchtune.modules.peft import get_adapter_params, set_trainable_params

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{MEET}", rank=RANK, world_size=WORLD)  # noqa: F821
DEVICE, STEPS, LENGTH = torch.device("cpu"), 3, 10
SIZES = {"vocab_size": 67, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32, "max_seq_len": 32}
LORA = {
    "lora_attn_modules": ["q_proj", "v_proj", "output_proj"],
    "apply_lora_to_mlp": True,
    "lora_rank": 4,
    "lora_alpha": 8,
}
BUILDERS = {
    "llama": lambda: llama3.llama3(**SIZES, intermediate_dim=64),
    "lora": lambda: llama3.lora_llama3(**LORA, **SIZES, intermediate_dim=64),
    "mistral": lambda: mistral.mistral(**SIZES, intermediate_dim=64),
    "qwen2": lambda: qwen2.qwen2(**SIZES, intermediate_dim=64, tie_word_embeddings=True),
    "qwen3": lambda: qwen3.qwen3(**SIZES, intermediate_dim=64, head_dim=16, tie_word_embeddings=False),
}
LOSSES = {"linear": LinearCrossEntropyLoss, "chunked": CEWithChunkedOutputLoss, "plain": nn.CrossEntropyLoss}


def batches(packed: bool) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(STEPS):
        length = 16 if packed else LENGTH
        tokens = torch.randint(0, SIZES["vocab_size"], (4, length), generator=generator)
        batch = {"tokens": tokens, "labels": torch.where(tokens % 3 == 0, -100, tokens.roll(-1, 1))}
        if packed:
            places = torch.arange(16)
            batch["mask"] = ((places[:, None] // 6 == places // 6).tril())[None].expand(4, -1, -1)
            batch["input_pos"] = (places % 6).expand(4, -1)
        made.append(batch)
    return made


def train(family: str, loss_name: str, packed: bool, cfg: dict, alone: bool) -> list[float]:
    torch.manual_seed(0)
    weights = {name: torch.randn(p.shape) * 0.2 for name, p in BUILDERS[family]().named_parameters()}
    with torch.device("meta"):
        model = BUILDERS[family]()
    adapter = get_adapter_params(model)
    if adapter:
        set_trainable_params(model, adapter)
    loss_fn = LOSSES[loss_name]()
    parallel = None if alone else training.Parallelism(OmegaConf.create(cfg), DEVICE)
    if parallel is not None:
        parallel.split_layers(model, loss_fn)
        parallel.shard(model)
    training.load_from_full_model_state_dict(model, dict(weights), DEVICE, strict=True)
    if loss_name == "linear":
        loss_fn.set_model_output(model)
    elif loss_name == "chunked":
        model.set_num_output_chunks(2)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == (len(adapter) or len(weights))
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses, found = None, []
    for batch in batches(packed):
        if parallel is None:
            part, context = batch, training.get_train_context(False)()
        else:
            part = {key: value[parallel.data_rank :: parallel.data_ranks] for key, value in batch.items()}
            part, context = parallel.own_part(part), parallel.loss_context()
        labels = part.pop("labels")
        tokens = training.count_loss_tokens(labels)
        with context:
            outputs = model(**part)
            if loss_name == "plain":
                outputs, labels = outputs.flatten(0, 1), labels.flatten()
            loss = loss_fn(outputs, labels)
            if parallel is None:
                loss.backward()
                norm = nn.utils.clip_grad_norm_(trained, 0.5)
                value = loss.item()
            else:
                losses = losses or training.LossAccumulator(DEVICE, copies=parallel.copies_of_tokens)
                losses.add(loss, tokens).backward()
                step = losses.finish()
                training.scale_grads_(trained, step.grad_scale)
                norm = training.clip_grad_norm(trained, 0.5)
                value = step.loss.item()
                assert step.num_tokens == (batch["labels"] != -100).sum()
        optimizer.step()
        optimizer.zero_grad()
        found += [value, float(norm)]
    if parallel is not None:
        gathered = training.gather_cpu_state_dict(model, True)
        answers_as_one(
            training.with_whole_layers(model, BUILDERS[family], device=DEVICE, dtype=torch.float32), family, gathered
        )
        return found, gathered
    return found, {name: p.detach() for name, p in model.named_parameters()}


@torch.no_grad()
def answers_as_one(model: nn.Module, family: str, weights: dict[str, torch.Tensor]) -> None:
    """The copy to generate with gives the logits of one whole model."""
    one = BUILDERS[family]().eval()
    one.load_state_dict(weights)
    tokens = torch.arange(7)[None] + RANK  # noqa: F821
    torch.testing.assert_close(model(tokens), one(tokens), atol=1e-5, rtol=1e-5)


for family, loss_name, packed, cfg in CASES:  # noqa: F821
    expected, weights = train(family, loss_name, packed, cfg, alone=True)
    found, gathered = train(family, loss_name, packed, cfg, alone=False)
    case = f"{family} {loss_name} packed={packed} {cfg}"
    difference = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    assert difference < 1e-4, f"{case}: losses and norms {found}, expected {expected}"
    assert gathered.keys() == weights.keys(), case
    for name, value in weights.items():
        torch.testing.assert_close(gathered[name], value, atol=2e-3, rtol=1e-2, msg=f"{case} {name}")
dist.barrier()
dist.destroy_process_group()
