"""Run by torchrun on two gloo processes: a decoder spread by ``base_llama_tp_plan`` gives the logits of one process."""

from __future__ import annotations

import copy
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from torchtune.models.llama3 import base_llama_tp_plan, llama3
from torchtune.training import prepare_mha_for_tp


def main(inference: bool) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    torch.manual_seed(0)
    whole = llama3(64, 2, 4, 2, 32, 16, intermediate_dim=48)
    spread = prepare_mha_for_tp(copy.deepcopy(whole), mesh)
    parallelize_module(spread, mesh, base_llama_tp_plan(spread, inference=inference))
    tokens = torch.randint(0, 64, (2, 8))
    found, expected = spread(tokens), whole(tokens)
    found = found.full_tensor() if isinstance(found, DTensor) else found
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if not inference:
        found.square().mean().backward()
        expected.square().mean().backward()
        for (name, ours), theirs in zip(spread.named_parameters(), whole.parameters(), strict=True):
            grad = ours.grad.full_tensor() if isinstance(ours.grad, DTensor) else ours.grad
            torch.testing.assert_close(grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert type(spread.layers[0].attn.q_proj.weight.data) is DTensor
    dist.destroy_process_group()


if __name__ == "__main__":
    main(inference=sys.argv[1] == "inference")
