"""Skip layers at random in training (LayerSkip, https://arxiv.org/abs/2404.16710)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.common_utils import slice_str_to_array


class LayerDropout(nn.Module):
    """Apply a function to a random part of a batch; the others pass through unchanged.

    Args:
        prob (float): probability of skipping a sample.
        dim (int | None): the batch dimension; only 0.
        disable_on_eval (bool | None): never skip in evaluation.
        seed (int | None): of the draws; None is torch's own.

    Raises:
        ValueError: if ``prob`` isn't in [0, 1], or ``dim`` isn't 0.
    """

    def __init__(
        self, prob: float = 0.0, dim: int | None = 0, disable_on_eval: bool | None = True, seed: int | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob must be between 0 and 1, not {prob}")
        if dim != 0:
            raise ValueError(f"LayerDropout skips samples of a batch: dim must be 0, not {dim}")
        self.prob = prob
        self.dim = dim
        self.disable_on_eval = disable_on_eval
        self.generator = torch.Generator(device="cpu")
        self.inferred: float | None = None
        if seed is not None:
            self.generator.manual_seed(seed)
        else:
            self.generator.seed()

    def forward(self, function: Callable[..., Tensor] | nn.Module, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply ``function``, which keeps shapes, to the samples that are not skipped.

        Args:
            function (Callable[..., Tensor] | nn.Module): its further arguments that are tensors ``[b, ...]`` are cut likewise.
            input (Tensor): ``[b, ...]``.

        Returns:
            Tensor: ``[b, ...]``.
        """
        if self.prob == 0 or (self.disable_on_eval and not self.training):
            self.inferred = 1.0
            return function(input, *args, **kwargs)
        batch = input.shape[0]
        kept = torch.rand(batch, generator=self.generator) >= self.prob
        self.inferred = kept.float().mean().item()
        indexes = kept.nonzero().squeeze(1).to(input.device)
        if indexes.numel() == 0:
            return input

        def cut(value: Any) -> Any:
            per_sample = isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == batch
            return value.index_select(0, indexes) if per_sample else value

        selected = function(cut(input), *map(cut, args), **{key: cut(value) for key, value in kwargs.items()})
        return input.index_copy(0, indexes, selected.to(input.dtype))


class ModuleLayerDropoutWrapper(nn.Module):
    """A layer with layer dropout around it. Attributes and state dict are the layer's.

    Args:
        module (nn.Module): the layer.
        dropout (LayerDropout): when to skip it.
    """

    def __init__(self, module: nn.Module, dropout: LayerDropout) -> None:
        super().__init__()
        self.module = module
        self.dropout = dropout
        self.register_load_state_dict_pre_hook(self._add_prefix)

    @staticmethod
    def _add_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}module.{key[len(prefix) :]}"] = state_dict.pop(key)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer to the samples that are not skipped: ``[b, ...] -> [b, ...]``."""
        return self.dropout(self.module, input, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def __getitem__(self, key: int) -> Any:
        """Item of the layer, where it is a sequence."""
        return self.module.__getitem__(key)  # type: ignore[operator]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The layer's state dict, without this wrapper in its keys."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The missing and unexpected keys, after the layer's state dict was loaded.

        Args:
            state_dict (dict[str, Any]): without this wrapper in its keys.
        """
        return self.module.load_state_dict(state_dict, *args, **kwargs)


class ScaleType(str, Enum):
    """How a value grows from 0 to 1."""

    UNIFORM = "uniform"
    EXP = "exp"
    LINEAR = "linear"
    LOG = "log"
    SIN = "sin"
    SIGMOID = "sigmoid"
    STEP = "step"


_SCALES: dict[ScaleType, Callable[[int, int], float]] = {
    ScaleType.UNIFORM: lambda val, period: 1.0,
    ScaleType.EXP: lambda val, period: 2 ** (val / period) - 1,
    ScaleType.LINEAR: lambda val, period: val / period,
    ScaleType.LOG: lambda val, period: math.log(val + 1) / math.log(period + 1),
    ScaleType.SIN: lambda val, period: math.sin(0.5 * math.pi * val / period),
    ScaleType.SIGMOID: lambda val, period: 1 / (1 + math.exp(-10 * (val / period - 0.5))),
    ScaleType.STEP: lambda val, period: 0.0 if val < period else 1.0,
}


def get_scale(scale_type: ScaleType, scale_period: int, val: int) -> float:
    """A value that grows from 0 (at 0) to 1 (at ``scale_period``).

    Args:
        scale_type (ScaleType): in which way; uniform is always 1.
        scale_period (int): where it reaches 1; 0 gives 1.
        val (int): where to look.
    """
    return 1.0 if scale_period == 0 else _SCALES[ScaleType(scale_type)](val, scale_period)


def prepare_layer_dropout(
    layers: nn.ModuleList | Iterable[nn.Module],
    prob_max: float = 0.0,
    prob_layer_scale: ScaleType | None = ScaleType.UNIFORM,
    layers_str: str | None = None,
    disable_on_eval: bool | None = True,
) -> None:
    """Put layer dropout around a model's layers, in place.

    Args:
        layers (nn.ModuleList | Iterable[nn.Module]): the layers, in a list that can be assigned to.
        prob_max (float): probability of skipping the last layer.
        prob_layer_scale (ScaleType | None): how it grows over the layers; None is uniform.
        layers_str (str | None): layers with dropout, such as ``"2:10,15"``; None is all.
        disable_on_eval (bool | None): never skip in evaluation.
    """
    count = len(layers)  # type: ignore[arg-type]
    chosen = slice_str_to_array(layers_str, count) if layers_str else [True] * count
    for index in range(count):
        scale = get_scale(prob_layer_scale or ScaleType.UNIFORM, count - 1, index)
        prob = prob_max * scale if chosen[index] else 0.0
        # A seed per layer that torch's own generator draws keeps runs with one seed equal.
        dropout = LayerDropout(prob, disable_on_eval=disable_on_eval, seed=int(torch.randint(2**31, ()).item()))
        layers[index] = ModuleLayerDropoutWrapper(layers[index], dropout)  # type: ignore[index]
