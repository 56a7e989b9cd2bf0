"""Run by torchrun on two gloo processes: a decoder spread by its plan gives the logits and gradients of one process."""

from __future__ import annotations

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from torchtune.models.llama3 import base_llama_tp_plan, llama3
from torchtune.models.llama4 import decoder_only_tp_plan, llama4_decoder
from torchtune.modules.model_fusion import EarlyFusionModel
from torchtune.training import prepare_mha_for_tp


class Encoder(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 32)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)


def llama4() -> EarlyFusionModel:
    decoder = llama4_decoder(
        vocab_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=32,
        hidden_dim=24,
        max_seq_len=16,
        num_experts=4,
        moe_every_n_layers=2,
        mlp_hidden_dim=40,
    )
    return EarlyFusionModel(
        decoder, {"vision": Encoder()}, {"vision": 60}, decoder_trainable=True, encoders_trainable=True
    )


def main(mode: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    torch.manual_seed(0)
    tokens = torch.randint(0, 59, (2, 8))
    inputs = {}
    if mode == "llama4":
        whole = llama4()
        tokens[:, 2:4] = 60
        inputs = {"encoder_input": {"vision": {"images": torch.randn(2, 2, 4)}}}
        spread = copy.deepcopy(whole)
        prepare_mha_for_tp(spread.decoder, mesh)
        parallelize_module(spread, mesh, decoder_only_tp_plan(spread))
    else:
        whole = llama3(64, 2, 4, 2, 32, 16, intermediate_dim=48)
        spread = prepare_mha_for_tp(copy.deepcopy(whole), mesh)
        parallelize_module(spread, mesh, base_llama_tp_plan(spread, inference=mode == "inference"))
    found, expected = spread(tokens, **inputs), whole(tokens, **inputs)
    found = found.full_tensor() if isinstance(found, DTensor) else found
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if mode != "inference":
        found.square().mean().backward()
        expected.square().mean().backward()
        for (name, ours), theirs in zip(spread.named_parameters(), whole.parameters(), strict=True):
            grad = ours.grad.full_tensor() if isinstance(ours.grad, DTensor) else ours.grad
            torch.testing.assert_close(grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    decoder = getattr(spread, "decoder", spread)
    assert type(decoder.layers[0].attn.q_proj.weight.data) is DTensor
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    # On a busy machine gloo's threads can abort the interpreter while it ends; all that is asserted was asserted before.
    sys.stdout.flush()
    os._exit(0)
