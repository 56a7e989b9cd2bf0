"""Names of earlier releases that people still import: they work, and say what to use instead."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from torch import nn

from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)

OLD = [
    ("torchtune.modules", "TiedEmbeddingTransformerDecoder"),
    ("torchtune.modules", "get_cosine_schedule_with_warmup"),
    ("torchtune.modules.peft", "load_dora_magnitudes"),
    ("torchtune.modules.peft", "validate_state_dict_for_lora"),
]


@pytest.mark.parametrize(("module", "name"), OLD)
def test_an_old_name_works_and_warns(module: str, name: str) -> None:
    with pytest.warns(FutureWarning, match=name):
        found = getattr(importlib.import_module(module), name)
    assert callable(found) and inspect.getdoc(found)


def test_an_unknown_name_is_an_attribute_error() -> None:
    name = "no_such_name"
    for module in ("torchtune.modules", "torchtune.modules.peft"):
        with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
            getattr(importlib.import_module(module), name)


def test_simpo_is_there() -> None:
    loss = importlib.import_module("torchtune.rlhf.loss")
    assert issubclass(loss.SimPOLoss, nn.Module)


def test_the_old_schedule_is_todays() -> None:
    from torchtune.training import get_cosine_schedule_with_warmup

    with pytest.warns(FutureWarning):
        old = importlib.import_module("torchtune.modules").get_cosine_schedule_with_warmup
    assert old is get_cosine_schedule_with_warmup


def test_a_decoder_with_tied_embeddings_is_one_with_a_tied_output() -> None:
    def decoder(build: object, **options: object) -> TransformerDecoder:
        torch.manual_seed(0)
        attention = MultiHeadAttention(
            embed_dim=8,
            num_heads=2,
            num_kv_heads=2,
            head_dim=4,
            q_proj=nn.Linear(8, 8),
            k_proj=nn.Linear(8, 8),
            v_proj=nn.Linear(8, 8),
            output_proj=nn.Linear(8, 8),
        )
        mlp = FeedForward(gate_proj=nn.Linear(8, 8), down_proj=nn.Linear(8, 8), up_proj=nn.Linear(8, 8))
        layer = TransformerSelfAttentionLayer(attention, mlp, sa_norm=RMSNorm(8), mlp_norm=RMSNorm(8))
        embedding = nn.Embedding(10, 8)
        sizes = {"layers": layer, "num_layers": 1, "max_seq_len": 4, "num_heads": 2, "head_dim": 4, "norm": RMSNorm(8)}
        if options:
            sizes["output"] = TiedLinear(embedding)
        return build(tok_embeddings=embedding, **sizes)  # type: ignore[operator]

    with pytest.warns(FutureWarning):
        old = importlib.import_module("torchtune.modules").TiedEmbeddingTransformerDecoder
    tokens = torch.arange(3)[None]
    assert torch.equal(decoder(old)(tokens), decoder(TransformerDecoder, tied=True)(tokens))


def test_code_llama2_has_its_sizes() -> None:
    package = importlib.import_module("torchtune.models.code_llama2")
    sizes = [f"{kind}code_llama2_{size}" for kind in ("", "lora_", "qlora_") for size in ("7b", "13b", "70b")]
    assert set(sizes) <= set(package.__all__)


@pytest.mark.parametrize(
    ("family", "builder"),
    [
        ("code_llama2", "code_llama2_7b"),
        ("flux", "flux_1_autoencoder"),
        ("gemma", "gemma_2b"),
        ("gemma2", "gemma2_2b"),
        ("llama2", "lora_llama2_7b"),
        ("llama3", "llama3_8b"),
        ("llama3_1", "llama3_1_8b"),
        ("llama3_2", "qlora_llama3_2_1b"),
        ("llama3_2_vision", "llama3_2_vision_11b"),
        ("llama3_3", "llama3_3_70b"),
        ("llama4", "llama4_scout_17b_16e"),
        ("mistral", "mistral_reward_7b"),
        ("phi3", "phi3_mini"),
        ("phi4", "phi4_14b"),
        ("qwen2", "qwen2_7b"),
        ("qwen2_5", "qwen2_5_7b_instruct"),
        ("qwen3", "qwen3_8b_base"),
        ("smol", "smollm2_135m"),
    ],
)
def test_builders_are_found_in_their_module_too(family: str, builder: str) -> None:
    package = importlib.import_module(f"torchtune.models.{family}")
    module = importlib.import_module(f"torchtune.models.{family}._model_builders")
    assert getattr(module, builder) is getattr(package, builder)
