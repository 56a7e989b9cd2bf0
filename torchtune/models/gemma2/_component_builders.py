"""Gemma 2: Gemma with soft caps, norms on both sides, and a sliding window in every other layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from torchtune.models._builders import component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family
from torchtune.models._key_maps import GEMMA2_HF
from torchtune.models._masks import windows
from torchtune.models.gemma._component_builders import LAYERS, SIZES, gemma_mlp
from torchtune.models.gemma.rms_norm import GemmaRMSNorm

SOURCE = "https://arxiv.org/abs/2408.00118 (Gemma 2)"


class Gemma2FinalNorm(nn.Module):
    """The last norm, one level down in state dicts (``norm.rms_norm.scale``).

    A ``cap`` bends the normalized vector to stay within it.
    """

    def __init__(self, dim: int, eps: float = 1e-6, cap: float | None = None) -> None:
        super().__init__()
        self.rms_norm = GemmaRMSNorm(dim, eps)
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        """``[..., dim] -> [..., dim]``."""
        normed = self.rms_norm(x)
        return normed if self.cap is None else torch.tanh(normed / self.cap) * self.cap


class SoftCappedOutput:
    """An output layer whose logits are bent to stay within ``cap``."""

    def __init__(self, output: Callable[[Tensor], Tensor], cap: float) -> None:
        self.output, self.cap = output, cap

    def __call__(self, x: Tensor) -> Tensor:
        """``[..., d]`` to logits ``[..., v]``."""
        return torch.tanh(self.output(x) / self.cap) * self.cap


@spec_function(
    f"{SIZES} hidden_capping_value final_capping_value sliding_window_size query_pre_attn_scalar cap_logits", **LAYERS
)
def gemma2_spec(
    spec: DecoderSpec,
    hidden_capping_value: float = 50.0,
    final_capping_value: float = 30.0,
    sliding_window_size: int = 4096,
    query_pre_attn_scalar: int | None = None,
    cap_logits: bool = False,
) -> DecoderSpec:
    """What a Gemma 2 decoder of these sizes is made of.

    The released models bend their logits (``cap_logits``), and so do the builders of their sizes. torchtune's ``gemma2``
    bends the last hidden state; that stays the default here, for models trained with it.
    """
    capped = partial(SoftCappedOutput, cap=final_capping_value)
    return replace(
        spec,
        final_norm=Gemma2FinalNorm if cap_logits else partial(Gemma2FinalNorm, cap=final_capping_value),
        post_norms=True,
        mask_mod=windows(sliding_window_size, every=2),
        output_wrapper=capped if cap_logits and final_capping_value else None,
        attention={"softcap": hidden_capping_value, "softmax_scale": (query_pre_attn_scalar or spec.head_size) ** -0.5},
    )


FAMILIES = (
    Family(
        "gemma2",
        partial(gemma2_spec, cap_logits=True),
        GEMMA2_HF,
        activation="gelu_pytorch_tanh",
        always_tied=True,
        extra={
            "hidden_capping_value": "attn_logit_softcapping",
            "final_capping_value": "final_logit_softcapping",
            "sliding_window_size": "sliding_window",
            "query_pre_attn_scalar": "query_pre_attn_scalar",
        },
    ),
)
gemma2, lora_gemma2 = component_builders("gemma2", "Gemma 2", gemma2_spec, module=__name__, source=SOURCE)

__all__ = ["Gemma2FinalNorm", "SoftCappedOutput", "gemma2", "gemma2_spec", "gemma_mlp", "lora_gemma2"]
