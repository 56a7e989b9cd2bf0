"""Which parameters are an adapter's, how they are saved, and how they are merged into the base weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from torchtune.modules.low_precision._nf4 import dequantize

LORA_ATTN_MODULES = Literal["q_proj", "k_proj", "v_proj", "output_proj"]

# An adapter's parameter in a state dict: that of a linear layer, or of grouped experts.
_ADAPTER_KEY = re.compile(r"(^|\.)(lora_[ab]\.weight|magnitude|lora_(gate|down|up)_[ab])$")
_EXPERT_WEIGHTS = ("gate", "down", "up")


def is_adapter_key(key: str) -> bool:
    """Whether a state dict's key is that of a LoRA or DoRA parameter."""
    return _ADAPTER_KEY.search(key) is not None


@runtime_checkable
class AdapterModule(Protocol):
    """A module with parameters that belong to an adapter."""

    def adapter_params(self) -> list[str]:
        """Names of the adapter's parameters, relative to the module, such as ``["lora_a.weight"]``."""
        ...


class _KeyMismatch(AssertionError, RuntimeError):
    """A checkpoint's keys are not those of the model: callers have caught both exceptions."""


def _adapter_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, AdapterModule):
            yield name, module  # type: ignore[misc]


def get_adapter_params(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters of adapters, by their name in the model and in its order.

    Args:
        model (nn.Module): a model with modules that have ``adapter_params``.

    Raises:
        AttributeError: if a module names a parameter that it doesn't have.
    """
    found: dict[str, nn.Parameter] = {}
    for name, module in _adapter_modules(model):
        parameters = dict(module.named_parameters())
        for key in module.adapter_params():  # type: ignore[operator]
            if key not in parameters:
                raise AttributeError(
                    f"Adapter parameter {key!r} is not in {name or 'the model'} ({type(module).__name__}); it has "
                    f"{sorted(parameters)}. Correct its adapter_params()"
                )
            found[f"{name}.{key}" if name else key] = parameters[key]
    return found


def set_trainable_params(model: nn.Module, adapter_params: dict[str, Any] | set[str]) -> None:
    """Train these parameters, freeze all others.

    Args:
        model (nn.Module): the model.
        adapter_params (dict[str, Any] | set[str]): names of the parameters to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in adapter_params)


def get_lora_module_names(
    lora_attn_modules: list[LORA_ATTN_MODULES], apply_lora_to_mlp: bool, apply_lora_to_output: bool
) -> list[str]:
    """The names of the layers that get an adapter, such as ``["q_proj", "v_proj", "w1", "w2", "w3", "output"]``.

    Args:
        lora_attn_modules (list[LORA_ATTN_MODULES]): of the attention.
        apply_lora_to_mlp (bool): whether those of the feed-forward layer do.
        apply_lora_to_output (bool): whether the output layer does.
    """
    mlp = ["w1", "w2", "w3"] if apply_lora_to_mlp else []
    return [*lora_attn_modules, *mlp, *(["output"] if apply_lora_to_output else [])]


def get_adapter_state_dict(state_dict: dict[str, Any], device: str | None = "cpu") -> dict[str, Any]:
    """The adapter's part of a state dict.

    Args:
        state_dict (dict[str, Any]): a model's.
        device (str | None): where to put the tensors; None leaves them where they are.
    """
    return {
        key: value if device is None else value.to(device) for key, value in state_dict.items() if is_adapter_key(key)
    }


def _merged_linear(base: Tensor, a: Tensor, b: Tensor, magnitude: Tensor | None, scale: float) -> Tensor:
    """``base + scale * b @ a``, its rows stretched to ``magnitude`` where there is one; computed in fp32."""
    merged = dequantize(base).float() + scale * (b.float() @ a.float())
    if magnitude is not None:
        merged *= (magnitude.float() / torch.linalg.vector_norm(merged, dim=1)).unsqueeze(1)
    return merged.to(base.dtype)


@torch.no_grad()
def get_merged_lora_ckpt(
    state_dict: dict[str, Any], rank: int, alpha: float, use_distributed_barriers: bool = False
) -> dict[str, Any]:
    """The state dict, changed in place, with LoRA and DoRA weights merged into the base model's.

    Args:
        state_dict (dict[str, Any]): a model's; its adapter entries are removed.
        rank (int): rank of the adapter.
        alpha (float): its scale is ``alpha / rank``.
        use_distributed_barriers (bool): wait for the other ranks after each weight; needed where the weights are
            sharded and merging one is a collective.

    Raises:
        KeyError: if a base weight or one half of an adapter is missing.
    """
    scale = alpha / rank
    for key in [key for key in state_dict if is_adapter_key(key)]:
        prefix, _, leaf = key.rpartition(".")
        try:
            if leaf == "weight" and prefix.endswith("lora_a"):
                module = prefix.removesuffix("lora_a")
                state_dict[f"{module}weight"] = _merged_linear(
                    state_dict[f"{module}weight"],
                    state_dict[key],
                    state_dict[f"{module}lora_b.weight"],
                    state_dict.get(f"{module}magnitude"),
                    scale,
                )
            elif leaf.startswith("lora_") and leaf.endswith("_a"):
                weight = f"{prefix}.{leaf[5:-2]}_proj".removeprefix(".")
                base, a, b = state_dict[weight], state_dict[key], state_dict[f"{key[:-2]}_b"]
                state_dict[weight] = (base.float() + scale * (a.float() @ b.float())).to(base.dtype)
            else:
                continue
        except KeyError as error:
            raise KeyError(f"Can't merge {key}: {error.args[0]} is not in the state dict") from None
        if use_distributed_barriers:
            torch.distributed.barrier()
    for key in [key for key in state_dict if is_adapter_key(key)]:
        del state_dict[key]
    return state_dict


@contextlib.contextmanager
def disable_adapter(model: nn.Module) -> Generator[None, None, None]:
    """Let the model compute without its adapters, for instance as the reference model of DPO.

    Args:
        model (nn.Module): a model with adapters.

    Yields:
        None: with the adapters off; they are as before afterwards, after an error too.
    """
    before = [(module, module.disabled) for _, module in _adapter_modules(model) if hasattr(module, "disabled")]
    for module, _ in before:
        module.disabled = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, disabled in before:
            module.disabled = disabled  # type: ignore[assignment]


def validate_missing_and_unexpected_for_lora(
    lora_attn_modules: list[LORA_ATTN_MODULES] | None = None,
    apply_lora_to_mlp: bool | None = None,
    apply_lora_to_output: bool | None = None,
    state_dict_keys: list[str] | None = None,
    base_missing: list[str] | None = None,
    base_unexpected: list[str] | None = None,
    lora_missing: list[str] | None = None,
    lora_unexpected: list[str] | None = None,
) -> None:
    """Check that base weights and adapter together are the whole model.

    Args:
        lora_attn_modules, apply_lora_to_mlp, apply_lora_to_output: not needed: keys say whether they are an adapter's.
        state_dict_keys (list[str] | None): the model's adapter keys, where known: anything else is a base key.
        base_missing, base_unexpected (list[str] | None): keys that the base checkpoint lacked, that only it has.
        lora_missing, lora_unexpected (list[str] | None): likewise for the adapter checkpoint.

    Raises:
        RuntimeError: naming the keys; it is an ``AssertionError`` too.
    """
    adapter = set(state_dict_keys or ())

    def is_adapter(key: str) -> bool:
        return key in adapter or is_adapter_key(key)

    for keys, text in (
        ([k for k in base_missing or [] if not is_adapter(k)], "Missing non-LoRA keys {} from base model state dict"),
        (list(base_unexpected or []), "Unexpected keys {} loading base model"),
        ([k for k in lora_missing or [] if is_adapter(k)], "Missing LoRA keys {} from adapter state dict"),
        (list(lora_unexpected or []), "Unexpected keys {} loading adapter"),
    ):
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise _KeyMismatch(text.format(shown) + ": the checkpoint is not one of this model with these LoRA options")
