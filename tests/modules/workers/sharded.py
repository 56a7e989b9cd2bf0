"""Run by torchrun: sharded models must give the loss and gradients of a whole one."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module

sys.path.insert(0, str(Path(__file__).parents[1]))
from _tiny_layers import VOCAB, decoder

from torchtune.modules import TiedLinear
from torchtune.modules.loss import LinearCrossEntropyLoss
from torchtune.modules.peft import DoRALinear, LoRALinear, get_adapter_params, set_trainable_params

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
LABELS = torch.tensor([[1, 4, -100, 5, 9, 2], [6, 5, 3, -100, -100, 9]])


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def build(kind: str) -> Any:
    layer = {"lora": LoRALinear, "dora": DoRALinear}.get(kind)
    options = {"linear": lambda i, o: layer(i, o, 2, 4.0)} if layer else {}
    model = decoder(**options)
    if layer:
        set_trainable_params(model, get_adapter_params(model))
    if kind == "tied":
        del model.output
        model.output = TiedLinear(model.tok_embeddings)
    return model


def fsdp(kind: str) -> None:
    whole = build(kind)
    model = copy.deepcopy(whole)
    if kind == "tied":
        model.output = TiedLinear(model.tok_embeddings)
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    for run, rows in ((whole, slice(None)), (model, slice(dist.get_rank(), dist.get_rank() + 1))):
        loss = LinearCrossEntropyLoss(num_output_chunks=2)
        loss.set_model_output(run)
        counted = (LABELS[rows] != -100).sum() / (LABELS != -100).sum()
        # FSDP averages over the ranks: each weighs its own tokens.
        scale = counted * (1 if run is whole else dist.get_world_size())
        for _ in range(2):
            (loss(run(TOKENS[rows]), LABELS[rows]) * scale).backward()
    gradients = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    assert gradients
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in gradients), name
        if parameter.grad is not None:
            torch.testing.assert_close(full(parameter.grad), gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def tensor_parallel() -> None:
    whole = build("full")
    model = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (2,))
    loss = LinearCrossEntropyLoss(num_output_chunks=3)
    plan = loss.patch_tp_plan({"output": ColwiseParallel()})
    parallelize_module(model, mesh, plan)
    want = LinearCrossEntropyLoss(num_output_chunks=3)
    results = []
    for run, function in ((whole, want), (model, loss)):
        function.set_model_output(run)
        with loss_parallel():
            value = function(run(TOKENS), LABELS)
            value.backward()
        results.append(full(value))
    torch.testing.assert_close(results[1], results[0])
    got = dict(model.named_parameters())
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(full(got[name].grad), parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
    assert model.output.weight.to_local().shape[0] < VOCAB


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for kind in ("full", "tied", "lora", "dora"):
        print(kind, flush=True)
        fsdp(kind)
    print("tensor parallel", flush=True)
    tensor_parallel()
    dist.destroy_process_group()
