"""Tensor-parallel plan of Llama 4's decoder."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

# The dimension of each expert weight that is its hidden size.
_HIDDEN_DIM = {"gate_proj": 2, "up_proj": 2, "down_proj": 1}


class ExpertTensorParallel(ParallelStyle):
    """Spreads the hidden size of every expert over the mesh; tokens are on all devices, before and after.

    The experts compute with their local weights, so that grouped matrix products work as on one device.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        names = {name for name, _ in module.named_parameters()}
        if names != set(_HIDDEN_DIM):
            raise ValueError(
                f"Experts with {sorted(names - set(_HIDDEN_DIM))} can't be spread: adapters aren't supported"
            )
        for name, dim in _HIDDEN_DIM.items():
            weight = getattr(module, name)
            spread = distribute_tensor(weight, device_mesh, [Shard(dim)])
            module.register_parameter(name, nn.Parameter(spread, weight.requires_grad))
        whole = module.forward

        def forward(x: torch.Tensor, num_tokens_per_expert: torch.Tensor) -> torch.Tensor:
            tokens = DTensor.from_local(x, device_mesh, [Replicate()], run_check=False)
            weights = dict(module._parameters)
            for name, weight in weights.items():
                module._parameters[name] = weight.to_local()  # type: ignore[assignment, union-attr]
            try:
                out = whole(tokens.to_local(grad_placements=[Partial()]), num_tokens_per_expert)
            finally:
                module._parameters.update(weights)
            return DTensor.from_local(out, device_mesh, [Partial()], run_check=False).full_tensor()

        module.forward = forward  # type: ignore[method-assign]
        return module


def decoder_only_tp_plan(
    model: nn.Module, *, inference: bool = False, enable_fp8_training: bool = False
) -> dict[str, ParallelStyle]:
    """How to spread the decoder of an early-fusion model over a tensor-parallel mesh; encoders stay whole.

    Activations between layers are on all devices, since images are put among the embedded tokens; so one plan serves training
    and inference. For the arguments see :func:`~torchtune.models.llama3.base_llama_tp_plan`.

    Raises:
        ValueError: where ``enable_fp8_training`` is set, which is not supported.
    """
    if enable_fp8_training:
        raise ValueError("FP8 training isn't supported by Llama 4's plan: set enable_fp8_training to False")
    colwise = ("attn.q_proj", "attn.k_proj", "attn.v_proj")
    plan: dict[str, ParallelStyle] = {
        "decoder.tok_embeddings": RowwiseParallel(input_layouts=Replicate()),
        "decoder.output": ColwiseParallel(output_layouts=Replicate()),
        **{f"decoder.layers.*.{name}": ColwiseParallel() for name in colwise},
        "decoder.layers.*.attn.output_proj": RowwiseParallel(),
    }
    for index, layer in enumerate(model.decoder.layers):  # type: ignore[union-attr, arg-type]
        prefix = f"decoder.layers.{index}.mlp."
        if hasattr(layer.mlp, "experts"):
            plan[prefix + "experts"] = ExpertTensorParallel()
            prefix += "shared_expert."
            if layer.mlp.shared_expert is None:
                continue
        plan |= {prefix + name: ColwiseParallel() for name in ("w1", "w3")}
        plan[prefix + "w2"] = RowwiseParallel()
    return plan
