"""Layers that join modalities, and which parameters are theirs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def get_fusion_params(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters of fusion modules, by their name in the model.

    Args:
        model (nn.Module): a model with modules that have ``fusion_params``.

    Raises:
        AttributeError: if a module names a parameter that it doesn't have.
    """
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if not callable(getattr(module, "fusion_params", None)):
            continue
        parameters = dict(module.named_parameters())
        for key in module.fusion_params():  # type: ignore[operator]
            if key not in parameters:
                raise AttributeError(
                    f"Fusion parameter {key!r} is not in {name or 'the model'} ({type(module).__name__})"
                )
            found[f"{name}.{key}" if name else key] = parameters[key]
    return found


def register_fusion_module(module: nn.Module) -> None:
    """Make all parameters of a module fusion parameters, by giving it ``fusion_params``.

    Args:
        module (nn.Module): changed in place.
    """

    def fusion_params(self: nn.Module) -> list[str]:
        return [name for name, _ in self.named_parameters()]

    module.fusion_params = partial(fusion_params, module)  # type: ignore[assignment]


class _RenamedKeys(nn.Module):
    """A module whose submodule ``_inner`` leaves no trace in the keys of state dicts."""

    _inner = ""

    def __init__(self) -> None:
        super().__init__()
        self._register_state_dict_hook(self._strip)
        self.register_load_state_dict_pre_hook(self._add)

    @classmethod
    def _strip(cls, module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        inner = f"{prefix}{cls._inner}."
        for key in [key for key in state_dict if key.startswith(inner)]:
            state_dict[prefix + key[len(inner) :]] = state_dict.pop(key)

    @classmethod
    def _add(cls, module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        others = tuple(f"{prefix}{name}." for name, _ in module.named_children() if name != cls._inner)
        for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(others)]:
            state_dict[f"{prefix}{cls._inner}.{key[len(prefix) :]}"] = state_dict.pop(key)


class FusionLayer(_RenamedKeys):
    """A decoder layer and a fusion layer, one after the other; state dicts have the decoder layer's own keys.

    Args:
        layer (nn.Module): of the decoder.
        fusion_layer (nn.Module): such as a cross-attention layer.
        fusion_first (bool): whether the fusion layer comes first.
    """

    _inner = "layer"

    def __init__(self, layer: nn.Module, fusion_layer: nn.Module, fusion_first: bool = True) -> None:
        super().__init__()
        self.layer = layer
        self.fusion_layer = fusion_layer
        self.fusion_first = fusion_first

    def setup_caches(
        self, batch_size: int, dtype: torch.dtype, *, encoder_max_seq_len: int, decoder_max_seq_len: int
    ) -> None:
        """Make the KV caches of both layers; see :meth:`torchtune.modules.TransformerDecoder.setup_caches`."""
        for layer in (self.layer, self.fusion_layer):
            layer.setup_caches(  # type: ignore[operator]
                batch_size, dtype, encoder_max_seq_len=encoder_max_seq_len, decoder_max_seq_len=decoder_max_seq_len
            )

    def caches_are_setup(self) -> bool:
        """Whether there are KV caches."""
        return self.layer.caches_are_setup()  # type: ignore[operator]

    def caches_are_enabled(self) -> bool:
        """Whether the KV caches are used."""
        return self.layer.caches_are_enabled()  # type: ignore[operator]

    def reset_cache(self) -> None:
        """Empty the KV caches of both layers."""
        self.layer.reset_cache()  # type: ignore[operator]
        self.fusion_layer.reset_cache()  # type: ignore[operator]

    def fusion_params(self) -> list[str]:
        """Names of the fusion layer's parameters, such as ``fusion_layer.attn.q_proj.weight``."""
        return [f"fusion_layer.{name}" for name, _ in self.fusion_layer.named_parameters()]

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Apply both layers, with the same further arguments: ``[b, s, d] -> [b, s, d]``."""
        first, second = (self.fusion_layer, self.layer) if self.fusion_first else (self.layer, self.fusion_layer)
        return second(first(x, **kwargs), **kwargs)


class FusionEmbedding(_RenamedKeys):
    """Token embedding with additional tokens in a tensor of their own, which can be trained alone.

    Args:
        vocab_size (int): tokens of the decoder.
        fusion_vocab_size (int): additional tokens; their ids follow.
        embed_dim (int): size ``d`` of a token.
    """

    _inner = "embedding"

    def __init__(self, vocab_size: int, fusion_vocab_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.fusion_embedding = nn.Embedding(fusion_vocab_size, embed_dim)
        self.dim = embed_dim
        self.num_embeddings = vocab_size + fusion_vocab_size
        self.embedding_dim = embed_dim

    def fusion_params(self) -> list[str]:
        """Names of the parameters of the additional tokens: ``fusion_embedding.weight``."""
        return ["fusion_embedding.weight"]

    def forward(self, input: Tensor) -> Tensor:
        """Embed token ids: ``[b, s] -> [b, s, d]``."""
        vocab_size = self.embedding.num_embeddings
        added = input >= vocab_size
        # Look up both and choose: shapes stay fixed, for torch.compile and for sharded embeddings.
        old = self.embedding(input.masked_fill(added, 0))
        new = self.fusion_embedding((input - vocab_size).clamp(min=0))
        return torch.where(added.unsqueeze(-1), new, old)
