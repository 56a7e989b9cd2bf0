"""Builders made from tables: signatures, sizes, adapters, and the decoder that comes out."""

from __future__ import annotations

import importlib
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from torchtune.models._dense import Adapter, DecoderSpec, dense_decoder, scale_hidden_dim_for_mlp
from torchtune.models.gemma import lora_gemma
from torchtune.models.gemma2 import gemma2_2b
from torchtune.models.llama2 import llama2_classifier, lora_llama2, qlora_llama2_reward_7b
from torchtune.models.llama2._component_builders import lora_llama2_self_attention
from torchtune.models.llama3 import llama3, llama3_8b, lora_llama3, lora_llama3_8b, qlora_llama3_8b
from torchtune.models.llama3_2 import llama3_2_1b, lora_llama3_2
from torchtune.models.phi4 import phi4_14b
from torchtune.models.qwen2 import lora_qwen2
from torchtune.models.qwen3 import lora_qwen3_0_6b_base, qwen3
from torchtune.models.smol import smollm2_135m
from torchtune.modules import RotaryPositionalEmbeddings, TransformerDecoder
from torchtune.modules.low_precision._nf4 import is_nf4
from torchtune.modules.peft import DoRALinear, LoRALinear

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 32,
    "intermediate_dim": 48,
    "max_seq_len": 16,
}
LORA: dict[str, Any] = {"lora_attn_modules": ["q_proj", "v_proj"], "lora_rank": 4, "lora_alpha": 8.0}
FAMILIES = {
    "llama2": ("llama2", SIZES),
    "llama3": ("llama3", SIZES),
    "llama3_1": ("llama3_1", SIZES),
    "llama3_2": ("llama3_2", SIZES),
    "qwen2": ("qwen2", SIZES),
    "qwen3": ("qwen3", {**SIZES, "head_dim": 16}),
    "mistral": ("mistral", SIZES),
    "gemma": ("gemma", {**SIZES, "head_dim": 16}),
    "gemma2": ("gemma2", {**SIZES, "head_dim": 16, "sliding_window_size": 4}),
    "phi3": ("phi3", SIZES),
    "smol": ("smollm2", SIZES),
}


def _builders(family: str) -> list[Any]:
    module = importlib.import_module(f"torchtune.models.{family}")
    names = [name for name in module.__all__ if not name.endswith(("_tokenizer", "_to_tune", "_to_hf"))]
    return [getattr(module, name) for name in names if hasattr(getattr(module, name), "__signature__")]


def _names(model: nn.Module, kind: type) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, kind)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_tiny_models_of_every_family_train(family: str, lora: bool) -> None:
    name, sizes = FAMILIES[family]
    component = importlib.import_module(f"torchtune.models.{family}._component_builders")
    build = getattr(component, f"lora_{name}" if lora else name)
    model = build(**sizes, **(LORA if lora else {}))
    tokens = torch.randint(0, 64, (2, 8))
    logits = model(tokens)
    assert logits.shape == (2, 8, 64) and logits.dtype == torch.float32
    logits.square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize("family", [*FAMILIES, "code_llama2", "llama3_3", "qwen2_5", "phi4"])
def test_every_builder_is_documented_and_picklable(family: str) -> None:
    builders = _builders(family)
    assert builders
    for build in builders:
        parameters = inspect.signature(build).parameters
        assert "Returns:" in build.__doc__ and all(f"    {name} (" in build.__doc__ for name in parameters)
        assert pickle.loads(pickle.dumps(build)) is build
        assert "[b, s]" in build.__doc__


def test_signatures_are_those_of_the_callers() -> None:
    assert not inspect.signature(llama3_8b).parameters
    assert list(inspect.signature(lora_llama3_8b).parameters)[-2:] == ["quantize_base", "use_dora"]
    assert inspect.signature(qlora_llama3_8b).parameters["quantize_base"].default is True
    assert inspect.signature(lora_llama3).parameters["lora_rank"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(llama3_2_1b).parameters["tie_word_embeddings"].default is True


def test_a_wrong_argument_is_named_with_the_signature() -> None:
    with pytest.raises(TypeError, match=r"lora_llama3_8b\(\).*lora_rnk.*lora_rank: int = 8"):
        lora_llama3_8b(["q_proj"], lora_rnk=4)
    with pytest.raises(TypeError, match=r"llama3\(\): missing a required argument: 'num_layers'"):
        llama3(64)


def test_adapters_go_where_they_are_asked_to() -> None:
    model = lora_llama3(["q_proj", "output_proj"], True, True, **SIZES, lora_rank=4, lora_alpha=8.0)
    assert _names(model, LoRALinear) == {"q_proj", "output_proj", "w1", "w2", "w3", "output"}
    model = lora_llama3(["k_proj"], **SIZES, lora_rank=4, lora_alpha=8.0, use_dora=True)
    assert _names(model, DoRALinear) == {"k_proj"}
    assert model.layers[0].attn.k_proj.scaling == 2.0


def test_adapters_leave_the_base_model_as_it_is() -> None:
    torch.manual_seed(0)
    base, adapted = llama3(**SIZES), lora_llama3(["q_proj", "v_proj"], True, True, **SIZES, lora_rank=4, lora_alpha=8.0)
    missing, unexpected = adapted.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected and all("lora" in key for key in missing)
    tokens = torch.randint(0, 64, (1, 8))
    assert torch.equal(adapted(tokens), base(tokens))


def test_mlp_only_adapters_are_allowed_and_none_at_all_is_an_error() -> None:
    model = lora_qwen2([], True, **SIZES, lora_rank=4, lora_alpha=8.0)
    assert _names(model, LoRALinear) == {"w1", "w2", "w3"}
    with pytest.raises(ValueError, match="Must pass one or more of"):
        lora_llama2([], **SIZES, lora_rank=4, lora_alpha=8.0)
    with pytest.raises(ValueError, match="Must pass one or more of"):
        lora_llama2_self_attention(
            [], embed_dim=32, num_heads=4, num_kv_heads=2, max_seq_len=16, lora_rank=4, lora_alpha=8.0
        )
    with pytest.raises(ValueError, match=r"unknown names \['o_proj'\]"):
        lora_llama2(["o_proj"], **SIZES, lora_rank=4, lora_alpha=8.0)


@pytest.mark.parametrize("build", [lora_llama3_2, lora_gemma], ids=["llama3_2", "gemma"])
def test_a_tied_output_gets_no_adapter(build: Any) -> None:
    sizes = {**SIZES, "head_dim": 8} if build is lora_gemma else SIZES
    with pytest.raises(ValueError, match="apply_lora_to_output is incompatible with tie_word_embeddings"):
        build(["q_proj"], False, True, **sizes, lora_rank=4, lora_alpha=8.0)
    model = lora_llama3_2(["q_proj"], False, True, **SIZES, lora_rank=4, lora_alpha=8.0, tie_word_embeddings=False)
    assert isinstance(model.output, LoRALinear)


def test_qlora_holds_base_weights_in_nf4_and_gives_them_back() -> None:
    pytest.importorskip("torchao")
    sizes = {**SIZES, "embed_dim": 128, "intermediate_dim": 128, "vocab_size": 128, "num_kv_heads": 4}
    model = lora_llama3(["q_proj", "v_proj"], **sizes, lora_rank=4, lora_alpha=8.0, quantize_base=True)
    layer = model.layers[0]
    nf4 = [layer.attn.q_proj, layer.attn.k_proj, layer.attn.output_proj, layer.mlp.w1]
    assert all(is_nf4(module.weight) for module in nf4)
    assert type(model.output.weight) is nn.Parameter
    state = model.state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    other = lora_llama3(["q_proj", "v_proj"], **sizes, lora_rank=4, lora_alpha=8.0, quantize_base=True)
    other.load_state_dict(state)
    # Quantized again, the scales of the blocks may round to another step.
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, state[key], atol=2e-3, rtol=2e-2)


def test_lora_on_qwen3_keeps_the_width_of_unadapted_projections() -> None:
    # 16 heads of 128 on a model of 1,024: what comes out of the heads is wider than the model.
    with torch.device("meta"):
        model = lora_qwen3_0_6b_base(["q_proj", "v_proj"])
    assert model.layers[0].attn.output_proj.weight.shape == (1024, 2048)


def test_quantized_reward_models_are_reward_models() -> None:
    with torch.device("meta"):
        model = qlora_llama2_reward_7b(["q_proj"], quantize_base=False)
    assert model.output.weight.shape == (1, 4096)


def test_released_sizes_follow_their_config() -> None:
    with torch.device("meta"):
        smol, phi4, gemma = smollm2_135m(), phi4_14b(), gemma2_2b()
    assert type(smol.layers[0].attn.pos_embeddings) is RotaryPositionalEmbeddings
    assert phi4.layers[0].attn.pos_embeddings.base == 250_000
    assert type(gemma.output).__name__ == "SoftCappedOutput" and gemma.norm.cap is None


def test_classifiers_score_every_token() -> None:
    model = llama2_classifier(3, **SIZES)
    assert model(torch.randint(0, 64, (2, 8))).shape == (2, 8, 3)


def test_hidden_size_without_one_given_is_two_thirds_rounded_up() -> None:
    assert [scale_hidden_dim_for_mlp(dim) for dim in (32, 4096, 5120, 96)] == [256, 11008, 13824, 256]


def test_layers_share_one_rope_and_models_build_on_meta() -> None:
    with torch.device("meta"):
        model = llama3(**SIZES)
    assert len({id(layer.attn.pos_embeddings) for layer in model.layers}) == 1
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert torch.isfinite(model(torch.randint(0, 64, (1, 16)))).all()


def test_a_spec_builds_without_a_family() -> None:
    spec = DecoderSpec(
        vocab_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        embed_dim=8,
        intermediate_dim=8,
        max_seq_len=8,
        rope=RotaryPositionalEmbeddings,
    )
    model = dense_decoder(spec, Adapter(frozenset({"w2"}), rank=2, alpha=4.0))
    assert isinstance(model, TransformerDecoder) and _names(model, LoRALinear) == {"w2"}


def test_qwen3_normalizes_before_it_rotates() -> None:
    model = qwen3(**SIZES, head_dim=16)
    assert model.layers[0].attn.norm_before_rope and model.layers[0].attn.q_norm.scale.shape == (16,)
