"""torch.compile for models and losses."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import nn

_log = logging.getLogger("torchtune")


def _backend() -> str:
    return os.environ.get("TORCH_COMPILE_BACKEND", "inductor")


def compile_model(model: nn.Module, verbose: bool = True) -> None:
    """Compile a model layer by layer, in place: layers are alike, so that one compilation serves all.

    Args:
        model: a decoder or a fusion model.
        verbose: log that it happens.
    """
    from torchtune.modules import TransformerCrossAttentionLayer, TransformerSelfAttentionLayer

    if verbose:
        _log.info("Compiling model layers with torch.compile (backend %s) ...", _backend())
    for module in reversed(list(model.modules())):
        if isinstance(module, (TransformerSelfAttentionLayer, TransformerCrossAttentionLayer)):
            module.compile(backend=_backend())


def compile_loss(loss: nn.Module, verbose: bool = True) -> nn.Module:
    """The loss, compiled, in its own way where it has one (``apply_compile_strategy``).

    Args:
        loss: the loss.
        verbose: log that it happens.
    """
    if verbose:
        _log.info("Compiling loss with torch.compile (backend %s) ...", _backend())
    strategy: Any = getattr(loss, "apply_compile_strategy", None)
    if strategy is not None:
        strategy(backend=_backend())
        return loss
    return torch.compile(loss, backend=_backend())  # type: ignore[return-value]
