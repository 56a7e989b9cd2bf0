"""Builders of whole models with images: which of their parts are trained, and which are adapted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter
from typing import Any

from torchtune.models._builders import LORA_ORDER, docstring, lora_parameter
from torchtune.models._functions import make_function

_PARTS = ("decoder", "encoder", "fusion")
_KINDS = ("full", "lora", "frozen")
Builder = Callable[..., Any]


def fusion_builders(
    name: str,
    title: str,
    build: Builder,
    *,
    module: str,
    returns: type,
    parts: Mapping[str, str],
    trained: tuple[bool, bool, bool],
    adapted: tuple[str, str, str],
    image_size: tuple[int, str],
    source: str,
    keyword_only: bool = False,
) -> tuple[Builder, Builder, Builder]:
    """The builders ``name``, ``lora_name`` and ``qlora_name`` of a model with images.

    Args:
        build (Builder): takes, by part, whether it is trained and whether it is adapted (None for no adapters at all), the
            adapters' arguments, and ``image_size``.
        parts (Mapping[str, str]): what decoder, encoder and fusion are, for docstrings.
        trained (tuple[bool, bool, bool]): which of them are trained by default.
        adapted (tuple[str, str, str]): the LoRA builder's defaults: "full", "lora" or "frozen" for each.
        image_size (tuple[int, str]): default, and what docstrings say of it.
        keyword_only (bool): all arguments but ``lora_attn_modules`` go by name.
    """
    kind = Parameter.KEYWORD_ONLY if keyword_only else Parameter.POSITIONAL_OR_KEYWORD
    size = Parameter("image_size", kind, default=image_size[0], annotation=int)
    result = f"{returns.__name__}: token ids ``[b, s]`` and images to logits ``[b, s, vocab_size]``."

    def choices(defaults: tuple[Any, ...], annotation: Any) -> list[Parameter]:
        named = zip(_PARTS, defaults, strict=True)
        return [Parameter(f"{part}_trainable", kind, default=value, annotation=annotation) for part, value in named]

    def document(what: str, parameters: list[Parameter], say: str, raises: str = "") -> str:
        texts = {f"{part}_trainable": f"{say} {about}." for part, about in parts.items()} | {
            "image_size": image_size[1]
        }
        return docstring(f"Build {title}{what}.", parameters, source, raises, result, texts)

    def full(image_size: int, **flags: bool) -> Any:
        return build({part: flags[f"{part}_trainable"] for part in _PARTS}, None, {}, image_size)

    def lora(image_size: int, **options: Any) -> Any:
        chosen = {part: options.pop(f"{part}_trainable") for part in _PARTS}
        for part, value in chosen.items():
            if value not in _KINDS:
                raise ValueError(f"{part}_trainable is {value!r}; it is one of {', '.join(map(repr, _KINDS))}")
        trained = {part: value != "frozen" for part, value in chosen.items()}
        return build(trained, {part: value == "lora" for part, value in chosen.items()}, options, image_size)

    sizes = [*choices(trained, bool), size]
    adapters = [lora_parameter(key, kind) for key in LORA_ORDER[1:]]
    parameters = [lora_parameter("lora_attn_modules"), *choices(adapted, "Trainable"), *adapters, size]
    say, raises = '"full", "lora" or "frozen":', "if a part is to be none of the three."
    lora_builder = make_function(
        f"lora_{name}", module, parameters, document(" with LoRA or DoRA", parameters, say, raises), lora, returns
    )
    qlora_builder = partial(lora_builder, quantize_base=True)
    qlora_builder.__doc__ = document(" with LoRA on an NF4 base (QLoRA)", parameters, say, raises)
    full_builder = make_function(name, module, sizes, document("", sizes, "train"), full, returns)
    return full_builder, lora_builder, qlora_builder
