"""Weights of Qwen2 and Qwen3: rows of q and k stay as they are; tied checkpoints may repeat the embedding as lm_head."""

from __future__ import annotations

from collections.abc import Callable

from torchtune.models._key_maps import QWEN2_HF, KeyMap
from torchtune.models.convert_weights import StateDict, convert_from_tune, convert_to_tune

_DOC = """Convert {what}.

Args:
    state_dict (StateDict): {given}.
    num_heads (int): not needed, as no rows are reordered.
    num_kv_heads (int): not needed.
    dim (int): not needed.
    head_dim (int | None): not needed.
    tie_word_embeddings (bool): {tied}.

Returns:
    StateDict: {returned}.

Raises:
    UnexpectedKey: for a key that the layout lacks.
"""


def qwen_converters(
    family: str, title: str, layout: KeyMap, *, module: str, writes_head: bool = False
) -> tuple[Callable[..., StateDict], Callable[..., StateDict]]:
    """``<family>_hf_to_tune`` and ``<family>_tune_to_hf``.

    Args:
        family (str): the family's name.
        title (str): its name in docstrings.
        layout (KeyMap): of its Hugging Face checkpoints.
        module (str): module that holds the two.
        writes_head (bool): published checkpoints of tied models hold ``lm_head.weight`` too.

    Returns:
        tuple[Callable[..., StateDict], Callable[..., StateDict]]: the two.
    """

    def to_tune(
        state_dict: StateDict,
        num_heads: int = 32,
        num_kv_heads: int = 32,
        dim: int = 4096,
        head_dim: int | None = None,
        tie_word_embeddings: bool = False,
    ) -> StateDict:
        kept = {k: v for k, v in state_dict.items() if not (tie_word_embeddings and k == "lm_head.weight")}
        return convert_to_tune(kept, layout)

    def to_hf(
        state_dict: StateDict,
        num_heads: int = 32,
        num_kv_heads: int = 32,
        dim: int = 4096,
        head_dim: int | None = None,
        tie_word_embeddings: bool = False,
    ) -> StateDict:
        converted = convert_from_tune(state_dict, layout)
        if writes_head and tie_word_embeddings and "model.embed_tokens.weight" in converted:
            converted["lm_head.weight"] = converted["model.embed_tokens.weight"]
        return converted

    theirs, ours = "Hugging Face tensors", "our tensors"
    left_out = "the model has no output weight of its own: ``lm_head.weight`` is left out"
    written = "write the embedding as ``lm_head.weight`` too, as published checkpoints do"
    not_needed = "not needed: a tied model has no output weight to write"
    for function, name, what, given, returned, tied in (
        (to_tune, f"{family}_hf_to_tune", f"a Hugging Face {title} checkpoint to ours", theirs, ours, left_out),
        (
            to_hf,
            f"{family}_tune_to_hf",
            f"our {title} tensors to a Hugging Face checkpoint; the inverse of :func:`{family}_hf_to_tune`",
            *(ours, theirs),
            written if writes_head else not_needed,
        ),
    ):
        function.__name__ = function.__qualname__ = name
        function.__module__ = module
        function.__doc__ = _DOC.format(what=what, given=given, returned=returned, tied=tied)
    return to_tune, to_hf


qwen2_hf_to_tune, qwen2_tune_to_hf = qwen_converters("qwen2", "Qwen2", QWEN2_HF, module=__name__)
