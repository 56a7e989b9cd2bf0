"""Change the size of a model's vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _resized(weight: Tensor, rows: int) -> nn.Parameter:
    """The first ``rows`` rows; new ones are the mean of the old."""
    kept = weight.detach()[:rows]
    if rows > kept.shape[0]:
        mean = weight.detach().float().mean(dim=0, keepdim=True).to(weight.dtype)
        kept = torch.cat([kept, mean.expand(rows - kept.shape[0], -1)])
    return nn.Parameter(kept.clone(), requires_grad=weight.requires_grad)


@torch.no_grad()
def resize_token_embeddings(model: nn.Module, num_embeddings: int) -> None:
    """Give a model another number of token embeddings and outputs, in place; new rows are the mean of the old ones.

    Do it before sharding, and before the optimizer is made.

    Args:
        model (nn.Module): with ``tok_embeddings`` and ``output``: an ``nn.Linear`` without adapter, or a tied one.
        num_embeddings (int): the new number.

    Raises:
        ValueError: if ``num_embeddings`` isn't positive.
        TypeError: if the output layer is neither linear nor tied.
    """
    if num_embeddings <= 0:
        raise ValueError(f"num_embeddings must be positive, not {num_embeddings}")
    embeddings = model.tok_embeddings
    output = model.output
    if isinstance(output, nn.Module) and type(output) is not nn.Linear:
        raise TypeError(
            f"Can't resize an output layer of type {type(output).__name__}; expected nn.Linear or TiedLinear. "
            "Resize before adding adapters"
        )
    embeddings.weight = _resized(embeddings.weight, num_embeddings)  # type: ignore[union-attr, arg-type, assignment]
    embeddings.num_embeddings = num_embeddings  # type: ignore[union-attr, assignment]
    if type(output) is nn.Linear:
        output.weight = _resized(output.weight, num_embeddings)
        if output.bias is not None:
            output.bias = nn.Parameter(_resized(output.bias.unsqueeze(1), num_embeddings).squeeze(1))
        output.out_features = num_embeddings
