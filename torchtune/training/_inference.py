"""A model with its weights, to generate, evaluate or quantize with."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training._parallelism import prepare_mha_for_tp
from torchtune.training._sharding import _compute_buffers, load_from_full_model_state_dict
from torchtune.training.checkpointing import MODEL_KEY
from torchtune.training.precision import set_default_dtype


def load_model(cfg: DictConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model of a config with its checkpoint's weights, in evaluation mode.

    Weights that the recipe ``quantize`` saved are used as they are; others are quantized if there is a ``quantizer``. In
    several processes the layers are split over them (tensor parallel).

    Args:
        cfg: ``model``, ``checkpointer``, and where given ``quantizer`` and ``tensor_parallel_plan``.
        device: where the weights go.
        dtype: of weights that are not quantized.

    Raises:
        RuntimeError: if the weights are not those of the model.
        ValueError: if layers are to be split and quantized.
    """
    from torchtune import config

    weights = config.instantiate(cfg.checkpointer).load_checkpoint()[MODEL_KEY]
    with set_default_dtype(dtype), torch.device("meta"):
        model: nn.Module = config.instantiate(cfg.model)
    quantized = any(is_quantized(tensor) for tensor in weights.values())
    world_size, _ = get_world_size_and_rank()
    if world_size > 1:
        if quantized or cfg.get("quantizer"):
            raise ValueError("quantizer: quantized layers are not split over processes; run it in one")
        _split_layers(model, cfg, device)
    if quantized:
        model.load_state_dict({name: tensor.to(device) for name, tensor in weights.items()}, strict=True, assign=True)
        _compute_buffers(model, device)
    else:
        load_from_full_model_state_dict(model, weights, device, strict=True)
        if cfg.get("quantizer"):
            model = config.instantiate(cfg.quantizer).quantize(model)
    return model.eval()


def is_quantized(tensor: Any) -> bool:
    """Whether a tensor of a state dict is one of torchao's classes.

    Args:
        tensor: any value of a state dict.
    """
    return type(tensor).__module__.startswith("torchao.")


def _split_layers(model: nn.Module, cfg: DictConfig, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate
    from torch.distributed.tensor.parallel import parallelize_module

    from torchtune import config
    from torchtune.modules import TransformerDecoder
    from torchtune.training._tensor_parallel import apply_tensor_parallel

    mesh = init_device_mesh(device.type, (get_world_size_and_rank()[0],), mesh_dim_names=("tp",))["tp"]
    if not isinstance(model, TransformerDecoder) and cfg.get("tensor_parallel_plan") is None:
        raise ValueError(
            f"tensor_parallel_plan is not set, and the model is a {type(model).__name__}, which has no plan by default: name "
            "one (Llama 4: torchtune.models.llama4.decoder_only_tp_plan), or run dev/generate_v2 in one process"
        )
    section = cfg.get("tensor_parallel_plan") or {"_component_": "torchtune.models.llama3.base_llama_tp_plan"}
    plan = config.instantiate(section, model=model, inference=True)
    if isinstance(model, TransformerDecoder):
        apply_tensor_parallel(model, mesh, plan)
        if not isinstance(model.output, nn.Module):  # it shares the embeddings' weight, which is split now

            def on_mesh(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                return DTensor.from_local(args[0], mesh, [Replicate()], run_check=False), *args[1:]

            model.output.linear.register_forward_pre_hook(on_mesh)  # type: ignore[attr-defined]
    else:  # a plan of its own for a decoder among encoders
        prepare_mha_for_tp(getattr(model, "decoder", model), mesh)
        parallelize_module(model, mesh, plan)
