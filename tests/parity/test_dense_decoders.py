"""Every dense family against ``transformers`` and ``peft``, on tiny random weights in fp32."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from torchtune.generation import generate
from torchtune.models._dense import NO_ADAPTER, Adapter, dense_decoder
from torchtune.models._families import Family, family_of, spec_from_hf_config
from torchtune.models.convert_weights import tune_to_peft_adapter_config
from torchtune.modules import TransformerDecoder
from torchtune.modules.peft import get_adapter_state_dict

_SIZES: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "beta_fast": 16.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 32,
}
_LAYERS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_FACTORS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.5,
}
_PHI4_MINI: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "hidden_size": 64,
    "tie_word_embeddings": True,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
        "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
    },
}
# Family in the name of a test -> model_type of transformers and what differs from the sizes above.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"rms_norm_eps": 1e-5}),
    "llama3": ("llama", {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama3_1": ("llama", {"rms_norm_eps": 1e-5, "rope_parameters": _LLAMA3_SCALING}),
    "llama3_2": (
        "llama",
        {"rms_norm_eps": 1e-5, "rope_parameters": {**_LLAMA3_SCALING, "factor": 32.0}, "tie_word_embeddings": True},
    ),
    "smollm2": (
        "llama",
        {
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2_5": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True}),
    "qwen3": (
        "qwen3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "head_dim": 16, "tie_word_embeddings": True},
    ),
    "mistral_window": ("mistral", {"rms_norm_eps": 1e-5, "sliding_window": 6}),
    "mistral": ("mistral", {"rms_norm_eps": 1e-5, "sliding_window": None}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 12}),
    "phi3": ("phi3", {"rms_norm_eps": 1e-5}),
    "phi3_window": ("phi3", {"rms_norm_eps": 1e-5, "sliding_window": 7}),
    "phi4": ("phi3", {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 2.5e5}}),
    "llama_yarn": ("llama", {"rope_parameters": _YARN}),
    "qwen2_yarn": ("qwen2", {"rope_parameters": {**_YARN, "attention_factor": 1.2}}),
    "mistral_nemo": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "ministral": ("ministral", {"head_dim": 16, **_LAYERS}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            **_LAYERS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "smollm3": (
        "smollm3",
        {"no_rope_layers": [1, 0, 1], "rope_parameters": {"rope_theta": 5e6}, "tie_word_embeddings": True},
    ),
    # LongRoPE: the first is never past its first context, the second always is.
    "phi4_mini_short": ("phi3", {**_PHI4_MINI, "original_max_position_embeddings": 100}),
    "phi4_mini_long": ("phi3", {**_PHI4_MINI, "original_max_position_embeddings": 4}),
    "granite3": ("granite", {"rms_norm_eps": 1e-5, **_FACTORS}),
    "granite4": (
        "granitemoehybrid",
        {
            "rms_norm_eps": 1e-5,
            "layer_types": ["attention"] * 3,
            "num_local_experts": 0,
            "shared_intermediate_size": 72,
            "position_embedding_type": "rope",
            "mamba_n_heads": 12,
            "tie_word_embeddings": True,
            **_FACTORS,
        },
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "head_dim": 16,
            "moe_intermediate_size": 24,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen3_moe_shares": (
        "qwen3_moe",
        {"moe_intermediate_size": 24, "num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": False},
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "head_dim": 16,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            **_LAYERS,
            "rope_parameters": {**_YARN, "truncate": False, "rope_theta": 1.5e5},
        },
    ),
}
# Families with experts, which PEFT adapts by `target_parameters`.
MIXTURES = ("qwen3_moe", "gpt_oss")


@dataclass
class Pair:
    """A model of ``transformers``, its config, and its family here."""

    hf: nn.Module
    config: dict[str, Any]
    family: Family

    def tune(self, adapter: Adapter = NO_ADAPTER, strict: bool = True) -> TransformerDecoder:
        """Ours, with the same weights."""
        model = dense_decoder(spec_from_hf_config(self.config), adapter)
        missing, unexpected = model.load_state_dict(self.family.to_tune(self.state_dict(), self.config), strict=strict)
        assert not unexpected
        assert strict or all("lora" in key or "magnitude" in key for key in missing)
        return model.eval()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a published checkpoint holds; transformers keeps experts in other tensors than it writes."""
        if self.config["model_type"] != "qwen3_moe":
            return dict(self.hf.state_dict())
        with tempfile.TemporaryDirectory() as folder:
            self.hf.save_pretrained(folder)
            return load_file(Path(folder) / "model.safetensors")


def make_pair(name: str, **changes: Any) -> Pair:
    """The tiny pair of a family, with weights large enough that every part of the layers shows in the logits."""
    transformers = pytest.importorskip("transformers")
    model_type, differences = CONFIGS[name]
    config = transformers.AutoConfig.for_model(model_type, **{**_SIZES, **differences, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in hf.named_parameters():
            parameter.normal_(std=0.3 if parameter.dim() == 1 else 0.15)
            if "norm" in key and "gemma" not in model_type:
                parameter.add_(1.0)
    hf.tie_weights()
    values = config.to_dict()
    return Pair(hf, values, family_of(values))


@pytest.fixture(params=list(CONFIGS))
def pair(request: pytest.FixtureRequest) -> Pair:
    """One pair per family."""
    return make_pair(request.param)


pytestmark = pytest.mark.parity
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def _tokens(batch: int = 2, length: int = 17, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 67, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_logits_equal_transformers(pair: Pair) -> None:
    tokens = _tokens()
    with torch.no_grad():
        ours, theirs = pair.tune()(tokens), pair.hf(tokens).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_weights_survive_a_round_trip(pair: Pair) -> None:
    theirs = pair.state_dict()
    ours = pair.family.to_tune(theirs, pair.config)
    back = pair.family.to_hf(ours, pair.config)
    if pair.config.get("tie_word_embeddings"):
        theirs.pop("lm_head.weight")
    assert set(back) == set(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)
    assert all(torch.equal(value, ours[key]) for key, value in pair.family.to_tune(back, pair.config).items())


@pytest.mark.parametrize("name", ["llama2", "mistral"])
def test_reward_models_equal_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = make_pair(name).config | {"num_labels": 1, "architectures": ["LlamaForSequenceClassification"]}
    torch.manual_seed(0)
    theirs = transformers.AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.for_model(**config), attn_implementation="eager"
    ).eval()
    family = family_of(config)
    ours = dense_decoder(spec_from_hf_config(config).classifier(1)).eval()
    state = dict(theirs.state_dict())
    ours.load_state_dict(family.to_tune(state, config))
    tokens = _tokens()
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens)[:, -1], theirs(tokens).logits, **TOLERANCE)
    back = family.to_hf(ours.state_dict(), config)
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_adapters_equal_peft(pair: Pair, use_dora: bool) -> None:
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "k_proj", "v_proj", "output_proj"]
    targets += ["w1", "w2", "w3"] if pair.config["model_type"] not in MIXTURES else [] if use_dora else ["experts"]
    _compare_adapters(pair, peft, targets, use_dora)


def test_adapters_of_some_of_the_fused_layers_equal_peft() -> None:
    peft = pytest.importorskip("peft")
    _compare_adapters(make_pair("phi3"), peft, ["q_proj", "v_proj", "w1"], use_dora=False)
    with pytest.raises(ValueError, match="adapt all of them"):
        _compare_adapters(make_pair("phi3"), peft, ["q_proj", "v_proj"], use_dora=True)


def _compare_adapters(pair: Pair, peft: Any, targets: list[str], use_dora: bool) -> None:
    adapted = {"w1"} | set(targets) if "experts" in targets else set(targets)
    tokens = _tokens()
    with torch.no_grad():
        without = pair.tune()(tokens)
    ours = pair.tune(Adapter(frozenset(adapted), rank=4, alpha=8.0, use_dora=use_dora), strict=False)
    if use_dora:
        for module in ours.modules():
            if hasattr(module, "initialize_dora_magnitude"):
                module.initialize_dora_magnitude()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in ours.named_parameters():
            if "lora" in key or "magnitude" in key:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter * (1 + 0.1 * noise) if "magnitude" in key else 0.1 * noise)
    adapter = get_adapter_state_dict(ours.state_dict())

    config = tune_to_peft_adapter_config(
        {"target_modules": targets, "r": 4, "lora_alpha": 8.0, "use_dora": use_dora}, key_map=pair.family.hf
    )
    theirs = peft.get_peft_model(pair.hf, peft.LoraConfig(**config, task_type="CAUSAL_LM"))
    exported = pair.family.adapter_to_peft(adapter, pair.config)
    result = peft.set_peft_model_state_dict(theirs, exported)
    assert not result.unexpected_keys
    assert set(peft.get_peft_model_state_dict(theirs)) == set(exported)

    with torch.no_grad():
        found = ours(tokens)
        torch.testing.assert_close(found, theirs.eval()(tokens).logits, **TOLERANCE)
    assert (found - without).abs().max() > 0.01
    back = pair.family.adapter_from_peft(exported, pair.config)
    assert set(back) == set(adapter) and all(torch.equal(back[key], adapter[key]) for key in adapter)


def _greedy(model: TransformerDecoder, prompt: torch.Tensor, steps: int, cached: bool) -> torch.Tensor:
    tokens, length = prompt, prompt.shape[1] + steps
    if not cached:
        for _ in range(steps):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens
    causal, positions = torch.tril(torch.ones(length, length, dtype=torch.bool)), torch.arange(length)
    model.setup_caches(batch_size=prompt.shape[0], dtype=torch.float32, decoder_max_seq_len=length)
    start = 0
    for _ in range(steps):
        end = tokens.shape[1]
        logits = model(
            tokens[:, start:end],
            mask=causal[None, start:end].expand(prompt.shape[0], -1, -1),
            input_pos=positions[None, start:end].expand(prompt.shape[0], -1),
        )
        tokens, start = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1), end
    return tokens


def test_greedy_generation_equals_transformers_with_and_without_cache(pair: Pair) -> None:
    prompt, steps = _tokens(batch=2, length=5), 64
    with torch.no_grad():
        theirs = pair.hf.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=steps, do_sample=False, eos_token_id=None
        )
        assert torch.equal(_greedy(pair.tune(), prompt, steps, cached=False), theirs)
        assert torch.equal(_greedy(pair.tune(), prompt, steps, cached=True), theirs)


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
def test_left_padded_batches_generate_as_transformers(pair: Pair, cached: bool) -> None:
    prompt, steps, pad = _tokens(batch=3, length=9), 64, 0
    prompt[1, :4], prompt[2, :7] = pad, pad
    model = pair.tune()
    with torch.no_grad():
        theirs = pair.hf.generate(
            prompt, attention_mask=(prompt != pad).long(), max_new_tokens=steps, do_sample=False, eos_token_id=None
        )
        if cached:
            model.setup_caches(batch_size=3, dtype=torch.float32, decoder_max_seq_len=9 + steps)
        ours, _ = generate(model, prompt, max_generated_tokens=steps, pad_id=pad, temperature=0.0)
    assert torch.equal(ours, theirs)


def _of_each_expert(pair: Pair, grads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by the names of a checkpoint: transformers has those of Qwen3's experts in one tensor."""
    if pair.config["model_type"] != "qwen3_moe":
        return grads
    split: dict[str, torch.Tensor] = {}
    for key, grad in grads.items():
        names = ("gate", "up") if "gate_up_proj" in key else ("down",)
        if "experts." not in key:
            split[key] = grad
            continue
        prefix = key.partition("experts.")[0] + "experts."
        for number, matrices in enumerate(grad):
            for name, part in zip(names, matrices.chunk(len(names)), strict=True):
                split[f"{prefix}{number}.{name}_proj.weight"] = part
    return split


def test_gradients_equal_transformers(pair: Pair) -> None:
    tokens = _tokens(batch=1, length=9)
    ours = pair.tune()
    for model in (ours, pair.hf):
        output = model(tokens)
        getattr(output, "logits", output).square().mean().backward()
    theirs = {
        name: parameter.grad
        for name, parameter in pair.hf.named_parameters(remove_duplicate=False)
        if parameter.grad is not None
    }
    expected = pair.family.to_tune(_of_each_expert(pair, theirs), pair.config)
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert set(found) == set(expected)
    for name, grad in found.items():
        torch.testing.assert_close(
            grad, expected[name], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
