"""Sampling, under torchtune's name for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchtune import generation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchtune.modules.transformer import TransformerDecoder


def generate(
    model: TransformerDecoder,
    prompt: torch.Tensor,
    *,
    max_generated_tokens: int,
    pad_id: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop_tokens: list[int] | None = None,
    rng: torch.Generator | None = None,
    custom_generate_next_token: Callable[..., Any] | None = None,
    return_logits: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See :func:`torchtune.generation.generate`; ``custom_generate_next_token`` is its ``compiled_generate_next_token``.

    Args:
        custom_generate_next_token: in place of :func:`~torchtune.generation.generate_next_token`.
    """
    return generation.generate(
        model,
        prompt,
        max_generated_tokens=max_generated_tokens,
        pad_id=pad_id,
        temperature=temperature,
        top_k=top_k,
        stop_tokens=stop_tokens,
        rng=rng,
        compiled_generate_next_token=custom_generate_next_token,
        return_logits=return_logits,
    )
