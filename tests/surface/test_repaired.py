"""What could not be imported, built or converted in torchtune 0.6: it can here. And what is built differently, and why."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from torchtune.models import llama2, llama3, llama3_2, llama4, phi4, qwen3, smol
from torchtune.models.convert_weights import tune_to_peft_adapter_weights
from torchtune.models.llama4._convert_weights import llama4_meta_to_tune, llama4_tune_to_meta
from torchtune.modules.peft import get_adapter_params

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "max_seq_len": 16,
}
LORA: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8.0}
ALL = ["q_proj", "k_proj", "v_proj", "output_proj"]


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if "lora_" not in key}


def on_meta(build: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.device("meta"):
        return build(*args, **kwargs)


def test_losses_of_preferences_and_policies_import() -> None:
    loss = importlib.import_module("torchtune.rlhf.loss")
    assert loss.DPOLoss().beta == 0.1 and loss.RSOLoss and loss.PPOLoss


def test_tokenizers_are_exported_from_their_packages() -> None:
    for package, name in (("qwen2_5", "Qwen2_5Tokenizer"), ("qwen3", "Qwen3Tokenizer"), ("phi4", "Phi4Tokenizer")):
        assert name in importlib.import_module(f"torchtune.models.{package}").__all__
    for name in ("qwen3", "lora_qwen3"):
        assert name in qwen3.__all__ and callable(getattr(qwen3, name))


def test_a_quantized_llama3_of_any_size_is_built() -> None:
    pytest.importorskip("torchao")
    model = llama3.lora_llama3(["q_proj"], **SIZES, **LORA, intermediate_dim=64, quantize_base=True)
    assert torch.isfinite(model(torch.arange(4)[None]).float()).all()


def test_an_untied_llama3_2_takes_an_adapter_on_its_output() -> None:
    model = llama3_2.lora_llama3_2(
        ["q_proj"], False, True, **SIZES, **LORA, intermediate_dim=64, tie_word_embeddings=False
    )
    assert "output.lora_a.weight" in get_adapter_params(model)


@pytest.mark.parametrize("part", ["decoder", "encoder", "fusion"])
def test_each_part_of_scout_takes_adapters(part: str) -> None:
    trainable = {f"{name}_trainable": "lora" if name == part else "frozen" for name in ("decoder", "encoder", "fusion")}
    model = on_meta(llama4.lora_llama4_scout_17b_16e, ALL, **trainable, apply_lora_to_output=True)
    adapted = {name.split(".")[0] + "." + name.split(".")[2] for name in get_adapter_params(model)}
    places = {"decoder": "decoder.", "encoder": "encoders.clip", "fusion": "encoders.projection"}
    assert adapted and all(name.startswith(places[part]) for name in adapted)


def test_a_frozen_image_encoder_is_frozen_by_the_builder() -> None:
    model = on_meta(llama4.lora_llama4_scout_17b_16e, ["q_proj"])
    assert not any(p.requires_grad for p in model.encoders["vision"].clip.parameters())


def test_llama4_goes_to_the_meta_layout_and_back() -> None:
    decoder = llama4.llama4_decoder(**SIZES, hidden_dim=32, num_experts=2)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    state = {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    back = llama4_meta_to_tune(llama4_tune_to_meta(state))
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_adapters_of_qwen_keep_their_rows_in_peft() -> None:
    from torchtune.models._key_maps import QWEN2_HF

    weights = {"layers.0.attn.q_proj.lora_b.weight": torch.arange(64.0)[:, None]}
    [exported] = tune_to_peft_adapter_weights(
        weights, num_heads=4, num_kv_heads=4, dim=64, head_dim=16, key_map=QWEN2_HF
    ).values()
    assert torch.equal(exported, weights["layers.0.attn.q_proj.lora_b.weight"])


def test_a_rotary_entry_of_an_old_reward_checkpoint_overwrites_nothing() -> None:
    from torchtune.rlhf.utils import reward_hf_to_tune, reward_tune_to_hf

    state = {
        "model.embed_tokens.weight": torch.ones(8, 4),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(4, 4),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2),
        "score.weight": torch.ones(1, 4) * 3,
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.zeros(2),
    }
    tune = reward_hf_to_tune(state, num_heads=1, num_kv_heads=1, dim=4)
    back = reward_tune_to_hf(tune, num_heads=1, num_kv_heads=1, dim=4)
    assert back.keys() == {key for key in state if "rotary" not in key}
    assert all(torch.equal(back[key], state[key]) for key in back)


# Built as the model's own configuration says, where torchtune 0.6 differed: docs/migrating.md has a line for each.


@pytest.mark.parametrize("size", ["smollm2_135m", "smollm2_360m", "smollm2_1_7b"])
def test_smollm2_has_plain_rope(size: str) -> None:
    rope = on_meta(getattr(smol, size)).layers[0].attn.pos_embeddings
    assert not hasattr(rope, "scale_factor")


def test_phi4_rotates_with_the_base_of_its_config() -> None:
    assert on_meta(phi4.phi4_14b).layers[0].attn.pos_embeddings.base == 250_000
    assert on_meta(phi4.lora_phi4_14b, ["q_proj"]).layers[0].attn.pos_embeddings.base == 250_000


@pytest.mark.parametrize("size", ["0_6b_base", "0_6b_instruct", "4b_base", "4b_instruct", "32b"])
def test_qwen3_with_adapters_has_the_shapes_of_qwen3(size: str) -> None:
    full, lora = on_meta(getattr(qwen3, f"qwen3_{size}")), on_meta(getattr(qwen3, f"lora_qwen3_{size}"), ["q_proj"])
    assert shapes(lora) == shapes(full)
    output_proj = full.layers[0].attn.output_proj.weight
    assert output_proj.shape[1] == full.layers[0].attn.num_heads * 128


def test_a_quantized_reward_model_has_one_output() -> None:
    model = on_meta(llama2.qlora_llama2_reward_7b, ["q_proj"], quantize_base=False)
    assert model.output.weight.shape == (1, 4096)


def test_dense_layers_of_llama4_have_their_own_size_with_adapters_too() -> None:
    options: dict[str, Any] = {
        **SIZES,
        "hidden_dim": 48,
        "mlp_hidden_dim": 40,
        "moe_every_n_layers": 2,
        "num_experts": 2,
    }
    full = on_meta(llama4.llama4_decoder, **options)
    lora = on_meta(llama4.lora_llama4_decoder, True, ALL, True, **options, **LORA)
    assert shapes(lora) == shapes(full)
    assert full.layers[0].mlp.w1.weight.shape == (40, 64)
