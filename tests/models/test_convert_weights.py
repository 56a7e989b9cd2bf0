"""Checkpoint layouts: keys, rows of q and k, fused tensors, adapters; each way back is exact."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from torchtune.models._families import family_of, spec_from_hf_config
from torchtune.models._family import rope_of
from torchtune.models._key_maps import GEMMA2_HF, GENERIC_HF, PHI3_HF, QWEN2_HF, QWEN3_HF
from torchtune.models.convert_weights import (
    UnexpectedKey,
    get_mapped_key,
    hf_to_tune,
    meta_to_tune,
    peft_to_tune_adapter_weights,
    reward_hf_to_tune,
    reward_tune_to_hf,
    tune_to_hf,
    tune_to_meta,
    tune_to_peft_adapter_config,
    tune_to_peft_adapter_weights,
)
from torchtune.models.llama3 import llama3
from torchtune.models.llama3_2_vision._convert_weights import _hf_map
from torchtune.models.phi3 import phi3_hf_to_tune, phi3_tune_to_hf
from torchtune.models.qwen2 import qwen2_hf_to_tune, qwen2_tune_to_hf
from torchtune.models.qwen3._convert_weights import qwen3_hf_to_tune, qwen3_tune_to_hf

HEADS: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "dim": 32}


def _model() -> dict[str, torch.Tensor]:
    return llama3(
        vocab_size=24, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=32, max_seq_len=8, intermediate_dim=40
    ).state_dict()


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_q_and_k_rows_go_from_pairs_to_halves() -> None:
    rows = torch.arange(32.0)[:, None].expand(-1, 3)
    theirs = tune_to_hf({"layers.0.attn.q_proj.weight": rows}, **HEADS)["model.layers.0.self_attn.q_proj.weight"]
    assert theirs[:16, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


@pytest.mark.parametrize("to, back", [(tune_to_hf, hf_to_tune), (reward_tune_to_hf, reward_hf_to_tune)])
def test_hf_round_trip_is_exact(to: Any, back: Any) -> None:
    ours = _model()
    assert _equal(back(to(ours, **HEADS), **HEADS), ours)


def test_meta_round_trip_is_exact_and_ignores_rope() -> None:
    ours = _model()
    theirs = tune_to_meta(ours)
    assert "layers.1.feed_forward.w3.weight" in theirs and "layers.0.attention_norm.weight" in theirs
    assert _equal(meta_to_tune({**theirs, "rope.freqs": torch.ones(4)}), ours)


def test_an_unexpected_key_is_named() -> None:
    with pytest.raises(Exception, match='Found unexpected key: "model.layers.0.self_attn.q_proj.bias"') as caught:
        hf_to_tune({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, **HEADS)
    assert isinstance(caught.value, UnexpectedKey) and "Llama layout" in str(caught.value)
    assert get_mapped_key("a.12.b", {"a.{}.b": "c.{}.d"}) == "c.12.d"
    with pytest.raises(Exception, match="Error converting the state dict"):
        get_mapped_key("a.12.x", {"a.{}.b": "c.{}.d"})


def test_rows_that_do_not_fit_the_sizes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"q_proj.weight has 32 rows.*num_heads=32"):
        tune_to_hf(_model())


def test_a_stale_rotary_entry_does_not_overwrite_another_key() -> None:
    theirs = tune_to_hf(_model(), **HEADS)
    with_rotary: dict[str, torch.Tensor] = {}
    for key, value in theirs.items():
        with_rotary[key.replace("lm_head", "score")] = value
        if key.endswith("o_proj.weight"):
            with_rotary[key.replace("o_proj.weight", "rotary_emb.inv_freq")] = torch.full((4,), 7.0)
    with_rotary["score.bias"] = torch.zeros(24)
    assert _equal(reward_hf_to_tune(with_rotary, **HEADS), _model_like(theirs))


def _model_like(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return hf_to_tune(theirs, **HEADS)


def test_phi3_splits_and_joins_by_the_heads() -> None:
    theirs = {
        "model.layers.0.self_attn.qkv_proj.weight": torch.randn(64, 32),
        "model.layers.0.mlp.gate_up_proj.weight": torch.randn(80, 32),
    }
    ours = phi3_hf_to_tune(theirs, **HEADS)
    shapes = {key.split(".")[-2]: value.shape[0] for key, value in ours.items()}
    assert shapes == {"q_proj": 32, "k_proj": 16, "v_proj": 16, "w1": 40, "w3": 40}
    assert _equal(phi3_tune_to_hf(ours), theirs)
    with pytest.raises(ValueError, match="num_heads and num_kv_heads"):
        phi3_hf_to_tune(theirs, None, None, 32)
    with pytest.raises(ValueError, match="64 rows don't split into 3"):
        phi3_hf_to_tune(theirs)
    del ours["layers.0.mlp.w3.weight"]
    with pytest.raises(ValueError, match=r"lacks \['layers.0.mlp.w3.weight'\]"):
        phi3_tune_to_hf(ours)


@pytest.mark.parametrize("to_tune, to_hf", [(qwen2_hf_to_tune, qwen2_tune_to_hf), (qwen3_hf_to_tune, qwen3_tune_to_hf)])
def test_a_tied_qwen_has_no_output_weight_of_its_own(to_tune: Any, to_hf: Any) -> None:
    weight = torch.randn(24, 32)
    theirs = {"model.embed_tokens.weight": weight, "lm_head.weight": weight}
    assert set(to_tune(theirs, tie_word_embeddings=True)) == {"tok_embeddings.weight"}
    assert set(to_tune(theirs)) == {"tok_embeddings.weight", "output.weight"}
    back = to_hf({"tok_embeddings.weight": weight}, tie_word_embeddings=True)
    assert torch.equal(back["model.embed_tokens.weight"], weight)


def _adapter() -> dict[str, torch.Tensor]:
    out = {"attn.q_proj": (32, 32), "attn.k_proj": (16, 32), "attn.v_proj": (16, 32), "mlp.w2": (32, 40)}
    adapter = {}
    for name, (rows, cols) in out.items():
        adapter[f"layers.1.{name}.lora_a.weight"] = torch.randn(4, cols)
        adapter[f"layers.1.{name}.lora_b.weight"] = torch.arange(rows * 4.0).view(rows, 4)
        adapter[f"layers.1.{name}.magnitude"] = torch.arange(float(rows))
    return adapter


@pytest.mark.parametrize("key_map", [GENERIC_HF, QWEN2_HF, QWEN3_HF, GEMMA2_HF], ids=lambda m: m.name)
def test_adapter_rows_move_as_the_weights_do(key_map: Any) -> None:
    adapter = _adapter()
    theirs = tune_to_peft_adapter_weights(adapter, **HEADS, key_map=key_map)
    prefix = "base_model.model.model.layers.1.self_attn.q_proj."
    moved = key_map in (GENERIC_HF, GEMMA2_HF)
    first = [0, 2, 4, 6, 1, 3, 5, 7] if moved else list(range(8))
    assert theirs[prefix + "lora_magnitude_vector"][:8].tolist() == first
    assert (theirs[prefix + "lora_B.weight"][:8, 0] / 4).tolist() == first
    assert torch.equal(theirs[prefix + "lora_A.weight"], adapter["layers.1.attn.q_proj.lora_a.weight"])
    assert _equal(peft_to_tune_adapter_weights(theirs, **HEADS, key_map=key_map), adapter)


def test_adapters_of_fused_layers_become_one_and_single_again() -> None:
    adapter = {key: value for key, value in _adapter().items() if "k_proj" not in key and "magnitude" not in key}
    theirs = tune_to_peft_adapter_weights(adapter, **HEADS, key_map=PHI3_HF)
    qkv = "base_model.model.model.layers.1.self_attn.qkv_proj."
    assert theirs[qkv + "lora_A.weight"].shape == (8, 32) and theirs[qkv + "lora_B.weight"].shape == (64, 8)
    assert not theirs[qkv + "lora_B.weight"][32:48].any()
    assert _equal(peft_to_tune_adapter_weights(theirs, **HEADS, key_map=PHI3_HF), adapter)
    config = {"target_modules": ["q_proj", "v_proj", "w2"], "r": 4, "lora_alpha": 8}
    written = tune_to_peft_adapter_config(config, key_map=PHI3_HF)
    assert written["target_modules"] == ["qkv_proj", "down_proj"]
    assert written["rank_pattern"] == {"qkv_proj": 8} and written["alpha_pattern"] == {"qkv_proj": 16}


def test_an_adapter_trained_on_a_fused_layer_is_shared_by_its_parts() -> None:
    a, b = torch.randn(4, 32), torch.randn(64, 4)
    prefix = "base_model.model.model.layers.0.self_attn.qkv_proj."
    ours = peft_to_tune_adapter_weights(
        {prefix + "lora_A.weight": a, prefix + "lora_B.weight": b}, **HEADS, key_map=PHI3_HF
    )
    assert torch.equal(ours["layers.0.attn.k_proj.lora_a.weight"], a)
    assert torch.equal(ours["layers.0.attn.k_proj.lora_b.weight"], b[32:48])


def test_layouts_without_peft_adapters_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="Save the merged weights"):
        tune_to_peft_adapter_weights(_adapter(), **HEADS, key_map=_hf_map(5, [3]))


def test_base_weights_among_adapter_weights_are_an_error() -> None:
    with pytest.raises(UnexpectedKey, match="layers.0.mlp.w1.weight"):
        tune_to_peft_adapter_weights({"layers.0.mlp.w1.weight": torch.ones(1)}, **HEADS)


def test_peft_config_has_peft_names_and_leaves_its_input_alone() -> None:
    ours = {"target_modules": ["q_proj", "output_proj", "w1", "output"], "r": 8, "lora_alpha": 16, "use_dora": True}
    theirs = tune_to_peft_adapter_config(ours, "org/base")
    assert theirs["target_modules"] == ["q_proj", "o_proj", "gate_proj", "lm_head"]
    assert theirs["base_model_name_or_path"] == "org/base" and theirs["use_dora"]
    assert ours["target_modules"][1] == "output_proj"
    with pytest.raises(ValueError, match="missing: \\['r'\\]"):
        tune_to_peft_adapter_config({"target_modules": [], "lora_alpha": 1})
    with pytest.raises(ValueError, match="Unknown target module fc1"):
        tune_to_peft_adapter_config({"target_modules": ["fc1"], "r": 1, "lora_alpha": 1})


CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


def test_a_config_json_says_what_to_build() -> None:
    spec = spec_from_hf_config({**CONFIG, "rope_theta": 5e5, "tie_word_embeddings": True}, max_seq_len=16)
    assert (spec.num_layers, spec.head_size, spec.max_seq_len, spec.tie_word_embeddings) == (2, 8, 16, True)
    assert rope_of({**CONFIG, "rope_theta": 5e5}) == (5e5, None)
    assert family_of(CONFIG).head_sizes({**CONFIG, "head_dim": 16}).size == 16


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "RoPE scaling 'dynamic'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window True"),
    ],
)
def test_what_is_not_built_is_refused_not_built_almost_right(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_from_hf_config({**CONFIG, **change})


def test_family_table_knows_the_layouts() -> None:
    assert family_of({"model_type": "qwen3"}).hf is QWEN3_HF


def test_adapters_of_experts_take_one_rank_or_a_block_each() -> None:
    config = {"target_modules": ["q_proj", "experts"], "r": 2, "lora_alpha": 4}
    written = tune_to_peft_adapter_config(config, key_map=family_of({"model_type": "gpt_oss"}).hf)
    assert written["target_modules"] == ["q_proj"]
    assert written["target_parameters"] == ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    assert written["rank_pattern"] == {"mlp.experts.gate_up_proj": 4}
    with pytest.raises(ValueError, match="no DoRA for experts"):
        tune_to_peft_adapter_config({**config, "use_dora": True}, key_map=family_of({"model_type": "gpt_oss"}).hf)

    prefix, generator = "base_model.model.model.layers.0.mlp.experts.", torch.Generator().manual_seed(0)
    shapes = {"base_layer.lora_A": (6, 5), "base_layer.lora_B": (8, 6), "lora_A": (6, 4), "lora_B": (5, 6)}
    theirs = {f"{prefix}{name}.weight": torch.randn(s, generator=generator) for name, s in shapes.items()}
    load = partial(
        peft_to_tune_adapter_weights, **HEADS, key_map=family_of({"model_type": "gpt_oss"}).hf, num_experts=3
    )
    ours = load(theirs)
    # The update of expert 1: PEFT's is sum over r of B[o, r, e] A[e, r, i], gate and up alternate.
    a, b = theirs[f"{prefix}base_layer.lora_A.weight"], theirs[f"{prefix}base_layer.lora_B.weight"]
    update = torch.einsum("ore,eri->eio", b.unflatten(1, (2, 3)), a.unflatten(0, (3, 2)))[1]
    for name, part in (("gate", update[:, ::2]), ("up", update[:, 1::2])):
        factors = [ours[f"layers.0.mlp.experts.lora_{name}_{f}"][1] for f in "ab"]
        torch.testing.assert_close(factors[0] @ factors[1], part)
    with pytest.raises(ValueError, match="needs num_experts"):
        load(theirs, num_experts=None)
    with pytest.raises(ValueError, match="lora_B.weight'. are missing"):
        load({key: value for key, value in theirs.items() if not key.endswith("experts.lora_B.weight")})
    with pytest.raises(ValueError, match="rank 4, .* has 2"):
        wide = {"base_layer.lora_A": torch.ones(12, 5), "base_layer.lora_B": torch.ones(8, 12)}
        load({**theirs, **{f"{prefix}{name}.weight": tensor for name, tensor in wide.items()}})
