"""A classifier made of any decoder."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn


def classifier_model(num_classes: int, base_model_path: str, **base_model_kwargs: Any) -> nn.Module:
    """Build a model and replace its output layer by one with ``num_classes`` outputs.

    Args:
        num_classes (int): number of outputs.
        base_model_path (str): dotted path of a model builder, such as ``torchtune.models.llama3_2.llama3_2_1b``.
        **base_model_kwargs (Any): arguments of the builder.

    Returns:
        nn.Module: the model; it gives ``[b, s, num_classes]``.

    Raises:
        ValueError: if the path names no builder, or the model has no output layer.
    """
    module_path, _, name = base_model_path.rpartition(".")
    try:
        builder = getattr(importlib.import_module(module_path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"base_model_path {base_model_path!r} names no model builder: {error}") from error
    model = builder(**base_model_kwargs)
    decoder = getattr(model, "decoder", model)
    if not hasattr(decoder, "output") or not hasattr(decoder, "tok_embeddings"):
        raise ValueError(f"{base_model_path} builds a {type(model).__name__} without `output` and `tok_embeddings`")
    decoder.output = nn.Linear(decoder.tok_embeddings.embedding_dim, num_classes, bias=False)
    return model
