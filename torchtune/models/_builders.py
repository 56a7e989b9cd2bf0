"""Makes the public builders of a family from its spec function and its rows of sizes.

A family has one *spec function*: its signature is that of the public component builder (``llama3``), its return value a
``DecoderSpec``. ``component_builders`` derives the full and the LoRA builder from it; ``size_rows`` derives the three
builders of each size. Signatures and docstrings are made from the same tables.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import Parameter
from typing import Any, List, Literal  # noqa: UP035

from torch import nn

from torchtune.models._dense import NO_ADAPTER, Adapter, DecoderSpec, dense_decoder, plain_spec, self_attention
from torchtune.models._functions import make_function
from torchtune.modules import TransformerDecoder

Builder = Callable[..., TransformerDecoder]
SpecFunction = Callable[..., DecoderSpec]

_REQUIRED = Parameter.empty
_LORA_ATTN = List[Literal["q_proj", "k_proj", "v_proj", "output_proj"]]  # noqa: UP006

# Every parameter of a builder: (annotation, default in the builders of sizes, what it does).
LORA_PARAMETERS: dict[str, tuple[Any, Any, str]] = {
    "lora_attn_modules": (_LORA_ATTN, _REQUIRED, "attention projections that get an adapter, by name."),
    "apply_lora_to_mlp": (bool, False, "adapt the feed-forward layers too."),
    "apply_lora_to_output": (bool, False, "adapt the output layer too; not possible where it is tied."),
    "lora_rank": (int, 8, "rank of the low-rank update."),
    "lora_alpha": (float, 16, "scale of the update: ``lora_alpha / lora_rank``."),
    "lora_dropout": (float, 0.0, "dropout before the update."),
    "use_dora": (bool, False, "DoRA (a learned magnitude per output row) instead of LoRA."),
    "quantize_base": (bool, False, "keep the base weights in NF4 (QLoRA)."),
    "scaler_block_size": (int, None, "NF4: weights that share one scale of scales; None is 256."),
}
SIZE_PARAMETERS: dict[str, str] = {
    "lora_modules": "attention projections that get an adapter, by name.",
    "vocab_size": "number of tokens.",
    "num_layers": "number of layers.",
    "num_heads": "number of query heads.",
    "num_kv_heads": "number of key and value heads; divides ``num_heads``.",
    "embed_dim": "size of a token's vector.",
    "intermediate_dim": "hidden size of the feed-forward layer; None scales it from ``embed_dim``.",
    "max_seq_len": "longest input in tokens; size of RoPE and KV caches.",
    "head_dim": "size of one head; None is ``embed_dim // num_heads``.",
    "attn_dropout": "dropout in attention.",
    "norm_eps": "epsilon of the norms.",
    "rope_base": "base of the rotary frequencies.",
    "scale_factor": "how far the low rotary frequencies are stretched.",
    "tie_word_embeddings": "use the embedding's weights in the output layer.",
    "num_classes": "number of outputs of the classifier.",
    "q_proj_bias": "bias in the query projection.",
    "k_proj_bias": "bias in the key projection.",
    "v_proj_bias": "bias in the value projection.",
    "q_norm": "normalize queries per head before RoPE.",
    "k_norm": "normalize keys per head before RoPE.",
    "hidden_capping_value": "soft cap of attention scores; None for none.",
    "final_capping_value": "soft cap of logits; None for none.",
    "cap_logits": "apply the final cap to the logits, as the released models do; False applies it to the last hidden state.",
    "sliding_window_size": "tokens that every other layer looks back on.",
    "sliding_window": "tokens that layers look back on, those with a window where there are two kinds; None is all.",
    "query_pre_attn_scalar": "scores are divided by the root of this; None is ``head_dim``.",
    "decoder_lora": "adapt the decoder's self-attention layers, and its output where asked for.",
    "encoder_lora": "adapt CLIP.",
    "fusion_lora": "adapt what joins images and text: cross-attention, the projection.",
    "fusion_interval": "every so many layers there is cross-attention.",
    "num_special_tokens": "tokens that were added to the vocabulary for images.",
    "encoder_max_seq_len": "most image tokens.",
    "patch_size": "pixels of a patch's side.",
    "tile_size": "pixels of a tile's side.",
    "max_num_tiles": "most tiles of an image that CLIP sees at once.",
    "in_channels": "channels of an image.",
    "clip_embed_dim": "size of a token's vector in CLIP.",
    "clip_num_layers": "layers of CLIP.",
    "clip_hidden_states": "layers of CLIP whose input is given on besides its output.",
    "num_layers_projection": "layers after CLIP.",
    "projection_embed_dim": "hidden size of the projection.",
    "decoder_embed_dim": "size of a token's vector in the decoder.",
    "hidden_dim": "hidden size of an expert.",
    "num_experts": "experts per layer.",
    "experts_per_token": "experts that a token goes through.",
    "use_shared_expert": "one more expert that every token goes through.",
    "use_qk_norm": "normalize q and k per head, after RoPE.",
    "moe_every_n_layers": "every so many layers have experts, the others are dense; None is all.",
    "mlp_hidden_dim": "hidden size of dense layers.",
    "skip_rope_interval": "every so many layers have no positional embedding; None is none of them.",
    "attention_chunk_size": "layers with RoPE see only their chunk of so many tokens.",
    "use_scaled_rope": "stretch low rotary frequencies.",
    "rope_scale_factor": "how far.",
    "rope_low_freq_factor": "bounds the wavelengths that are fully stretched.",
    "rope_high_freq_factor": "bounds the wavelengths that stay.",
    "old_context_len": "tokens that the model was first trained on.",
    "quantization_kwargs": "further arguments of the NF4 conversion.",
    "rope_scaling": "how the rotary embedding is stretched, in the words of config.json (``rope_parameters``).",
    "local_rope_base": "base of the rotary frequencies in layers with a window.",
    "layer_types": "for each layer ``full_attention`` or ``sliding_attention``; None is the family's own pattern.",
    "no_rope_layers": "for each layer 0 where it has no positional embedding; None is every fourth.",
    "softcap": "soft cap of attention scores; None for none.",
    "final_softcap": "soft cap of logits; None for none.",
    "normalize_experts": "the weights of a token's experts sum to 1.",
    "embedding_multiplier": "factor of the embeddings.",
    "residual_multiplier": "factor of what attention and feed-forward layers add.",
    "attention_multiplier": "factor of attention scores.",
    "logits_scaling": "logits are divided by this.",
}
_LOGITS = "TransformerDecoder: token ids ``[b, s]`` to logits ``[b, s, vocab_size]``."
# The order of a size's LoRA parameters, where it isn't that of the table.
LORA_ORDER = tuple(name for name in LORA_PARAMETERS if name != "scaler_block_size")
LORA_ORDER_LLAMA3 = (*LORA_ORDER[:6], "quantize_base", "use_dora")
LORA_ORDER_TIED = tuple(name for name in LORA_ORDER if name != "apply_lora_to_output")


def docstring(
    summary: str,
    parameters: list[Parameter],
    source: str | None,
    raises: str = "",
    returns: str = _LOGITS,
    texts: Mapping[str, str] | None = None,
) -> str:
    """A docstring in the house style, from the tables."""
    lines = [summary, ""]
    if parameters:
        lines.append("Args:")
        for parameter in parameters:
            note = parameter.annotation
            kind = note if isinstance(note, str) else getattr(note, "__name__", str(note).replace("typing.", ""))
            kind = "list[str]" if parameter.name == "lora_attn_modules" else kind
            text = {**SIZE_PARAMETERS, **(texts or {})}.get(parameter.name) or LORA_PARAMETERS[parameter.name][2]
            default = "" if parameter.default in (_REQUIRED, None) else f" Default: {parameter.default}."
            lines.append(f"    {parameter.name} ({kind}): {text}{default}")
        lines.append("")
    lines += ["Returns:", f"    {returns}"]
    if raises:
        lines += ["", "Raises:", f"    ValueError: {raises}"]
    if source:
        lines += ["", f"Source: {source}"]
    return "\n".join(lines)


def builder_names(namespace: dict[str, Any]) -> list[str]:
    """The names of the builders that a module makes, for its ``__all__``."""
    made = {n: v for n, v in namespace.items() if hasattr(v, "__signature__") and v.__module__ == namespace["__name__"]}
    return [name for name in made if name[0] != "_" and not name.endswith("_spec")]


_make_builder = partial(make_function, returns=TransformerDecoder)


def _with_default(parameter: Parameter, default: Any) -> Parameter:
    """The parameter with another default, and a type that says whether it may be None."""
    kind = parameter.annotation
    if default is _REQUIRED:
        kind = kind.removesuffix(" | None")
    elif default is None and "None" not in kind:
        kind += " | None"
    elif kind == "float" and isinstance(default, int):
        kind = "int"
    return parameter.replace(default=default, annotation=kind)


def spec_function(
    order: str = "", *, rope: Callable[..., nn.Module] | None = None, **defaults: Any
) -> Callable[[Callable[..., DecoderSpec]], SpecFunction]:
    """Makes a family's spec function of what differs from a plain decoder (Llama's layers, rotary halves apart).

    The decorated function takes the plain ``DecoderSpec`` first, then options of the family, and gives the family's.
    ``order`` names the spec function's parameters, by default all sizes, then the options; ``defaults`` are those of
    sizes, such as ``rope_base``, and other fields of the spec, such as ``norm``.
    """
    sizes = inspect.signature(plain_spec).parameters
    fields = {name: value for name, value in defaults.items() if name not in sizes}

    def decorate(change: Callable[..., DecoderSpec]) -> SpecFunction:
        options = dict(list(inspect.signature(change).parameters.items())[1:])
        known = {n: _with_default(p, defaults.get(n, p.default)) for n, p in sizes.items()} | options
        parameters = [known[name] for name in order.split() or known]
        hidden = {name: value for name, value in defaults.items() if name in sizes and known[name] not in parameters}

        def build(**kwargs: Any) -> DecoderSpec:
            chosen = {name: kwargs.pop(name) for name in sizes if name in kwargs}
            spec = replace(plain_spec(**chosen, **hidden), **fields)
            if rope is not None:
                spec = replace(spec, rope=partial(rope, base=chosen["rope_base"]))
            return change(spec, **kwargs)

        name, doc = change.__name__, change.__doc__ or ""
        return make_function(name, change.__module__, parameters, doc, build, DecoderSpec)

    return decorate


def lora_parameter(name: str, kind: Any = Parameter.POSITIONAL_OR_KEYWORD, default: Any = ...) -> Parameter:
    annotation, table_default, _ = LORA_PARAMETERS[name]
    return Parameter(name, kind, default=table_default if default is ... else default, annotation=annotation)


def component_builders(
    name: str,
    title: str,
    spec_function: SpecFunction,
    *,
    module: str,
    source: str | None = None,
    scaler_block_size: bool = False,
) -> tuple[Builder, Builder]:
    """The builders ``name`` and ``lora_name`` of any size of a family, with the signature of its spec function.

    ``title`` is what docstrings call the family; ``scaler_block_size`` says whether the LoRA builder takes it.
    """
    sizes = list(inspect.signature(spec_function).parameters.values())
    full = _make_builder(
        name,
        module,
        sizes,
        docstring(f"Build a {title} decoder of any size.", sizes, source),
        lambda **kwargs: dense_decoder(spec_function(**kwargs)),
    )

    keyword = Parameter.KEYWORD_ONLY
    leading = [lora_parameter(n) for n in ("lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output")]
    required = [lora_parameter(n, keyword, _REQUIRED) for n in ("lora_rank", "lora_alpha")]
    optional = ("lora_dropout", "use_dora", "quantize_base") + (("scaler_block_size",) if scaler_block_size else ())
    parameters = (
        leading
        + [parameter.replace(kind=keyword) for parameter in sizes]
        + required
        + [lora_parameter(n, keyword) for n in optional]
    )
    size_names = {parameter.name for parameter in sizes}

    def build(**kwargs: Any) -> TransformerDecoder:
        spec = spec_function(**{k: v for k, v in kwargs.items() if k in size_names})
        return dense_decoder(spec, Adapter.of(**{k: v for k, v in kwargs.items() if k not in size_names}))

    doc = docstring(
        f"Build a {title} decoder of any size with LoRA, DoRA or QLoRA.",
        parameters,
        source,
        raises="for an unknown layer name, none at all, or an adapter on a tied output layer.",
    )
    return full, _make_builder(f"lora_{name}", module, parameters, doc, build)


def classifier_spec(spec_function: SpecFunction) -> SpecFunction:
    """From ``num_classes`` and the sizes of a family, all by name, to the spec of a classifier."""

    def spec(num_classes: int, **sizes: Any) -> DecoderSpec:
        return spec_function(**sizes).classifier(num_classes)

    signature = inspect.signature(spec_function)
    sizes = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()]
    classes = Parameter("num_classes", Parameter.POSITIONAL_OR_KEYWORD, annotation="int")
    spec.__signature__ = signature.replace(parameters=[classes, *sizes])  # type: ignore[attr-defined]
    return spec


def part_builders(
    name: str,
    title: str,
    build: Callable[..., Any],
    *,
    module: str,
    flags: tuple[str, ...],
    returns: str,
    source: str | None = None,
    quantization_kwargs: bool = False,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The builders ``name`` and ``lora_name`` of a part of a model with images.

    ``build`` takes an ``Adapter`` per flag by position, and sizes by name; the flags are leading parameters of the LoRA
    builder, whether each adapter is used.
    """
    keyword = Parameter.KEYWORD_ONLY
    sizes = [p for p in inspect.signature(build).parameters.values() if p.kind is keyword]
    annotation = inspect.signature(build).return_annotation
    full = make_function(
        name,
        module,
        sizes,
        docstring(f"Build {title}.", sizes, source, returns=returns),
        lambda **kwargs: build(*[NO_ADAPTER] * len(flags), **kwargs),
        annotation,
    )
    leading = [Parameter(flag, Parameter.POSITIONAL_OR_KEYWORD, annotation=bool) for flag in flags]
    leading += [lora_parameter(n) for n in ("lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output")]
    lora_names = ("lora_rank", "lora_alpha", "lora_dropout", "use_dora", "quantize_base")
    parameters = leading + sizes + [lora_parameter(n, keyword) for n in lora_names]
    if quantization_kwargs:
        parameters.append(Parameter("quantization_kwargs", Parameter.VAR_KEYWORD, annotation=Any))
    size_names = {parameter.name for parameter in sizes}

    def build_lora(quantization_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        used = [kwargs.pop(flag) for flag in flags]
        chosen = {key: kwargs.pop(key) for key in size_names}
        adapter = replace(Adapter.of(**kwargs), quantization=quantization_kwargs or {})
        return build(*(adapter if use else NO_ADAPTER for use in used), **chosen)

    doc = docstring(f"Build {title} with LoRA, DoRA or QLoRA.", parameters, source, returns=returns)
    return full, make_function(f"lora_{name}", module, parameters, doc, build_lora, annotation)


def lora_attention_builder(
    name: str, title: str, spec_function: SpecFunction, *, module: str
) -> Callable[..., nn.Module]:
    """A family's self-attention by itself, with adapters: for those who build layers of their own."""
    of_others = {"vocab_size": 1, "num_layers": 1, "intermediate_dim": 1}
    skipped = (*of_others, "tie_word_embeddings")
    keyword = Parameter.KEYWORD_ONLY
    sizes = [p for p in inspect.signature(spec_function).parameters.values() if p.name not in skipped]
    parameters = [
        Parameter("lora_modules", Parameter.POSITIONAL_OR_KEYWORD, annotation=_LORA_ATTN),
        *(parameter.replace(kind=keyword) for parameter in sizes),
        *(lora_parameter(n, keyword, _REQUIRED) for n in ("lora_rank", "lora_alpha")),
        *(lora_parameter(n, keyword) for n in ("lora_dropout", "use_dora", "quantize_base")),
    ]
    size_names = {parameter.name for parameter in sizes}

    def build(lora_modules: list[str], **kwargs: Any) -> Any:
        spec = spec_function(**of_others, **{k: v for k, v in kwargs.items() if k in size_names})
        adapter = Adapter.of(lora_modules, **{k: v for k, v in kwargs.items() if k not in size_names})
        return self_attention(spec, adapter, spec.rope(dim=spec.head_size, max_seq_len=spec.max_seq_len))

    returns = "nn.Module: ``[b, s, embed_dim] -> [b, s, embed_dim]``."
    doc = docstring(f"Build one self-attention layer of {title} with adapters.", parameters, None, returns=returns)
    return _make_builder(name, module, parameters, doc, build)


class SizeRows:
    """The rows of a family: each call adds a size and returns its full, LoRA and QLoRA builder.

    ``lora_order`` are the LoRA parameters in their order, ``options`` parameters of the spec that stay arguments of the
    builders, with defaults, and ``common`` is what all sizes share.
    """

    def __init__(
        self,
        title: str,
        spec_function: SpecFunction,
        *,
        module: str,
        lora_order: tuple[str, ...] = LORA_ORDER,
        options: dict[str, Any] | None = None,
        source: str | None = None,
        **common: Any,
    ) -> None:
        self.title, self.spec_function, self.module, self.source = title, spec_function, module, source
        self.lora_order, self.options, self.common = lora_order, options or {}, common
        self.specs: dict[str, DecoderSpec] = {}
        self.billions: dict[str, float] = {}

    def __call__(
        self,
        name: str,
        label: str,
        *,
        lora_order: tuple[str, ...] | None = None,
        billions: float | None = None,
        **sizes: Any,
    ) -> tuple[Builder, Builder, Builder]:
        """Add the size ``name``; ``label`` is what docstrings call it, ``billions`` its parameters by the model card."""
        row = {**self.common, **sizes}
        known = inspect.signature(self.spec_function).parameters
        options = [
            Parameter(key, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=known[key].annotation)
            for key, default in self.options.items()
        ]
        self.specs[name] = self.spec_function(**row, **self.options)
        if billions is not None:
            self.billions[name] = billions

        def full(**kwargs: Any) -> TransformerDecoder:
            return dense_decoder(self.spec_function(**row, **kwargs))

        def lora(**kwargs: Any) -> TransformerDecoder:
            chosen = {key: kwargs.pop(key) for key in self.options}
            return dense_decoder(self.spec_function(**row, **chosen), Adapter.of(**kwargs))

        lora_parameters = [lora_parameter(key) for key in lora_order or self.lora_order] + options
        qlora_parameters = [p.replace(default=True) if p.name == "quantize_base" else p for p in lora_parameters]
        raises = "for an unknown layer name, none at all, or an adapter on a tied output."

        def make(prefix: str, how: str, parameters: list[Parameter], build: Builder) -> Builder:
            summary = f"Build {self.title} {label}{how}."
            doc = docstring(summary, parameters, self.source, raises if prefix else "")
            return _make_builder(prefix + name, self.module, parameters, doc, build)

        return (
            make("", "", options, full),
            make("lora_", " with LoRA or DoRA", lora_parameters, lora),
            make("qlora_", " with LoRA on an NF4 base (QLoRA)", qlora_parameters, lora),
        )
