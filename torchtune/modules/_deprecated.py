"""Names of earlier torchtune releases that people still import; each warns where it is looked up."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from torchtune.modules.peft import DoRALinear
from torchtune.modules.peft._utils import LORA_ATTN_MODULES, _KeyMismatch, is_adapter_key
from torchtune.modules.tied_linear import TiedLinear
from torchtune.modules.transformer import TransformerDecoder

# (module, name) -> (what to use instead, where the alias is)
_ALIASES = {
    ("torchtune.modules", "TiedEmbeddingTransformerDecoder"): (
        "TransformerDecoder with output=TiedLinear(tok_embeddings)",
        __name__,
    ),
    ("torchtune.modules", "get_cosine_schedule_with_warmup"): (
        "torchtune.training.get_cosine_schedule_with_warmup",
        "torchtune.training.lr_schedulers",
    ),
    ("torchtune.modules.peft", "load_dora_magnitudes"): ("DoRALinear.initialize_dora_magnitude", __name__),
    ("torchtune.modules.peft", "validate_state_dict_for_lora"): (
        "validate_missing_and_unexpected_for_lora",
        __name__,
    ),
}


def find(module: str, name: str) -> Any:
    """What the alias ``name`` of ``module`` stands for; AttributeError where there is none."""
    if (module, name) not in _ALIASES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    instead, home = _ALIASES[module, name]
    warnings.warn(f"{module}.{name} is deprecated; use {instead}", FutureWarning, stacklevel=3)
    return getattr(importlib.import_module(home), name)


def TiedEmbeddingTransformerDecoder(*, tok_embeddings: nn.Embedding, **kwargs: Any) -> TransformerDecoder:
    """A decoder whose output layer is its token embedding; ``kwargs`` are the decoder's, without ``output``."""
    return TransformerDecoder(tok_embeddings=tok_embeddings, output=TiedLinear(tok_embeddings), **kwargs)


def load_dora_magnitudes(model: nn.Module) -> None:
    """Set the magnitudes of all DoRA layers from their weights, once these are loaded."""
    for module in model.modules():
        if isinstance(module, DoRALinear):
            module.initialize_dora_magnitude()


def validate_state_dict_for_lora(
    lora_attn_modules: list[LORA_ATTN_MODULES],
    apply_lora_to_mlp: bool,
    apply_lora_to_output: bool,
    full_model_state_dict_keys: list[str],
    lora_state_dict_keys: Iterable[str] | None = None,
    base_model_state_dict_keys: Iterable[str] | None = None,
) -> None:
    """Check that base and adapter checkpoints together are the whole model; keys say whether they are an adapter's.

    Raises:
        AssertionError: naming the keys that are missing or too many.
    """
    full = set(full_model_state_dict_keys)
    adapter = {key for key in full if is_adapter_key(key)}
    for what, wanted, given in (
        ("adapter", adapter, lora_state_dict_keys),
        ("base model", full - adapter, base_model_state_dict_keys),
    ):
        if given is not None and set(given) != wanted:
            raise _KeyMismatch(
                f"The {what} checkpoint lacks {sorted(wanted - set(given))[:5]} and has, too many, "
                f"{sorted(set(given) - wanted)[:5]}"
            )
