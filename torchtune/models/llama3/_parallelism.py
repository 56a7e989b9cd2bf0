"""Tensor-parallel plans of the Llama layout; they serve every dense decoder built here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel import ParallelStyle

_COLWISE = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.w1", "mlp.w3")
_ROWWISE = ("attn.output_proj", "mlp.w2")


def base_llama_tp_plan(
    model: nn.Module, *, inference: bool = False, enable_fp8_training: bool = False
) -> dict[str, ParallelStyle]:
    """How to spread a dense decoder over a tensor-parallel mesh.

    For training the residual stream is sharded along the sequence between layers (sequence parallelism); for inference it
    is replicated, since a decoding step has one token.

    Args:
        model (nn.Module): the decoder.
        inference (bool): plan for generation.
        enable_fp8_training (bool): plan for layers that torchao made float8.

    Returns:
        dict[str, ParallelStyle]: plan for ``parallelize_module``; ``*`` stands for a layer number.

    Raises:
        ValueError: where both are set: a float8 plan is for training only.
    """
    # Half a second of imports, which only plans need
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, RowwiseParallel

    if inference and enable_fp8_training:
        raise ValueError("enable_fp8_training is for training; build the plan with inference=False or without float8")
    if enable_fp8_training:
        return _get_fp8_llama_tp_training_plan(model)
    if inference:
        plan: dict[str, Any] = {
            "tok_embeddings": RowwiseParallel(input_layouts=Replicate()),
            "output": ColwiseParallel(output_layouts=Replicate()),
            **{f"layers.*.{name}": ColwiseParallel() for name in _COLWISE},
            **{f"layers.*.{name}": RowwiseParallel() for name in _ROWWISE},
        }
        return _for_model(plan, model)
    return _training_plan(model, ColwiseParallel, RowwiseParallel, PrepareModuleInput)


def _get_fp8_llama_tp_training_plan(model: nn.Module) -> dict[str, ParallelStyle]:
    """The training plan with torchao's float8 styles, which gather activations in float8."""
    from torchao.float8.float8_tensor_parallel import (
        Float8ColwiseParallel,
        Float8RowwiseParallel,
        PrepareFloat8ModuleInput,
    )

    return _training_plan(model, Float8ColwiseParallel, Float8RowwiseParallel, PrepareFloat8ModuleInput)


def _training_plan(model: nn.Module, colwise: Any, rowwise: Any, prepare: Any) -> dict[str, ParallelStyle]:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    plan: dict[str, Any] = {
        "tok_embeddings": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "output": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        "layers.*.sa_norm": SequenceParallel(),
        "layers.*.mlp_norm": SequenceParallel(),
        "layers.*.attn": prepare(input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)),
        "layers.*.mlp": prepare(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        **{f"layers.*.{name}": colwise() for name in _COLWISE},
        **{f"layers.*.{name}": rowwise(output_layouts=Shard(1)) for name in _ROWWISE},
    }
    return _for_model(plan, model)


def _for_model(plan: dict[str, Any], model: nn.Module) -> dict[str, ParallelStyle]:
    """Without the output layer where it isn't a module of its own (tied embeddings), with the norms of heads (Qwen 3)."""
    from torch.distributed.tensor.parallel import SequenceParallel

    if getattr(model.layers[0].attn, "q_norm", None) is not None:  # type: ignore[index, union-attr]
        heads = SequenceParallel(sequence_dim=2, use_local_output=True)  # [b, s, n, h]: a rank has some of the n
        plan = {**plan, "layers.*.attn.q_norm": heads, "layers.*.attn.k_norm": heads}
    return {key: style for key, style in plan.items() if key != "output" or isinstance(model.output, nn.Module)}
