"""Small changes to models."""

from __future__ import annotations

import warnings

from torch import nn


def disable_dropout(model: nn.Module) -> None:
    """Set the probability of every dropout in a model to 0, with a warning where it was not.

    Args:
        model: the model, changed in place.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p != 0:
            warnings.warn(
                f"Found Dropout with value {module.p} in {name or 'the model'}. Setting it to zero.", stacklevel=2
            )
            module.p = 0
        elif isinstance(getattr(module, "attn_dropout", None), float) and module.attn_dropout != 0:  # attention's
            warnings.warn(f"Found attn_dropout {module.attn_dropout} in {name}. Setting it to zero.", stacklevel=2)
            module.attn_dropout = 0.0  # type: ignore[assignment]
