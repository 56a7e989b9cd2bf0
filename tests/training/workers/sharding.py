"""Four ranks: models sharded in different ways compute, clip and save as one that isn't. Run by ``runpy.run_path`` with MEET and RANK."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from torchtune import training
from torchtune.models.llama3 import base_llama_tp_plan, llama3, lora_llama3
from torchtune.modules.low_precision._nf4 import dequantize
from torchtune.modules.peft import get_adapter_params, set_trainable_params

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{MEET}", rank=globals()["RANK"], world_size=4)  # noqa: F821
RANK = int(globals()["RANK"])
DEVICE = torch.device("cpu")
SIZES = {"vocab_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32, "intermediate_dim": 72}
SIZES["max_seq_len"] = 64
TOKENS = torch.arange(16).reshape(2, 8)


def full_model() -> nn.Module:
    torch.manual_seed(0)
    model = llama3(**SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def sharded(dims: training.ParallelDims, weights: dict) -> nn.Module:
    mesh = dims.build_mesh("cpu")
    with torch.device("meta"):
        model = llama3(**SIZES)
    if dims.tp_enabled:
        training.prepare_mha_for_tp(model, mesh["tp"])
        parallelize_module(model, mesh["tp"], parallelize_plan=base_llama_tp_plan(model))
    dp_mesh = mesh["dp_replicate", "dp_shard"] if dims.dp_replicate_enabled else mesh["dp_shard"]
    conditions = [partial(training.get_shard_conditions, names_to_match=["output"])]
    training.shard_model(model, conditions, cpu_offload=False, dp_mesh=dp_mesh)
    training.load_from_full_model_state_dict(model, dict(weights), DEVICE, strict=True)
    return model


def check_dense() -> None:
    reference = full_model()
    weights = {name: value.clone() for name, value in reference.state_dict().items()}
    reference(TOKENS).pow(2).mean().backward()
    norm = training.clip_grad_norm(reference.parameters(), 0.01)
    grads = {name: p.grad for name, p in reference.named_parameters()}
    plain = torch.optim.AdamW(reference.parameters(), lr=0.01)
    plain.step()
    for replicate, tp in ((1, 1), (2, 1), (1, 2)):
        model = sharded(training.ParallelDims(replicate, -1, tp, 1, 4), weights)
        gathered = training.gather_cpu_state_dict(model, RANK == 0)
        assert all(torch.equal(gathered[name], weights[name]) for name in gathered)
        assert len(gathered) == (len(weights) if RANK == 0 else 0)
        output = model(TOKENS)
        output = output.full_tensor() if isinstance(output, DTensor) else output
        output.pow(2).mean().backward()
        torch.testing.assert_close(training.clip_grad_norm(model.parameters(), 0.01), norm)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad.full_tensor(), grads[name], msg=lambda m, n=name: f"{n}: {m}")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        optimizer.step()
        state = training.get_full_optimizer_state_dict(model, optimizer, True)
        for index, values in plain.state_dict()["state"].items():
            torch.testing.assert_close(state["state"][index]["exp_avg_sq"], values["exp_avg_sq"])
        again = torch.optim.AdamW(model.parameters(), lr=0.5)
        training.load_from_full_optimizer_state_dict(model, again, state, DEVICE)
        for mine, theirs in zip(again.state.values(), optimizer.state.values(), strict=True):
            assert torch.equal(mine["exp_avg"].to_local(), theirs["exp_avg"].to_local())
        assert again.param_groups[0]["lr"] == 0.01


def check_nf4() -> None:
    """Quantized base weights are sharded by rows, and gather to what one process has."""
    build = partial(
        lora_llama3,
        ["q_proj", "v_proj"],
        apply_lora_to_mlp=True,
        **{**SIZES, "num_kv_heads": 4, "embed_dim": 256, "intermediate_dim": 512, "num_layers": 1},
        lora_rank=4,
        lora_alpha=8,
        quantize_base=True,
    )
    torch.manual_seed(0)
    single = build()
    weights = {name: dequantize(t) for name, t in single.state_dict().items()}
    expected = single(TOKENS)
    with torch.device("meta"):
        model = build()
    set_trainable_params(model, get_adapter_params(model))
    training.shard_model(model, [training.get_shard_conditions], cpu_offload=False)
    training.load_from_full_model_state_dict(model, dict(weights), DEVICE, strict=True)
    gathered = training.gather_cpu_state_dict(model, RANK == 0)
    for name, tensor in gathered.items():
        torch.testing.assert_close(tensor.float(), weights[name].float(), atol=0.02, rtol=0.1)
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-2, rtol=1e-2)


check_dense()
check_nf4()
dist.barrier()
dist.destroy_process_group()
