"""Encoders of text and images against ``transformers``, on tiny random weights in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchtune.models.clip._convert_weights import clip_text_hf_to_tune, clip_text_tune_to_hf
from torchtune.models.clip._text_encoder import CLIPTextEncoder
from torchtune.models.t5 import t5_encoder
from torchtune.models.t5._convert_weights import t5_encoder_hf_to_tune, t5_encoder_tune_to_hf

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def _randomize(model: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    return model.eval()


def test_t5_encoder_equals_transformers() -> None:
    config = transformers.T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu",
    )
    theirs = _randomize(transformers.T5EncoderModel(config))
    ours = t5_encoder(32, 48, 4, 8, 3, 8, 20, 64, config.layer_norm_epsilon, 40)
    converted = t5_encoder_hf_to_tune(dict(theirs.state_dict()))
    ours.load_state_dict(converted)
    tokens = torch.randint(0, 64, (2, 33))
    mask = torch.arange(33)[None] < torch.tensor([[33], [20]])
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).last_hidden_state, **TOLERANCE)
        torch.testing.assert_close(
            ours(tokens, mask)[1, :20],
            theirs(tokens, attention_mask=mask.long()).last_hidden_state[1, :20],
            **TOLERANCE,
        )
    assert set(t5_encoder_tune_to_hf(converted)) == set(theirs.state_dict()) - {"shared.weight"}
    with pytest.raises(ValueError, match="max_seq_len"):
        ours(torch.zeros(1, 41, dtype=torch.long))


def test_clip_text_encoder_equals_transformers() -> None:
    config = transformers.CLIPTextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=20,
        eos_token_id=63,
        bos_token_id=62,
        pad_token_id=63,
    )
    theirs = _randomize(transformers.CLIPTextModel(config))
    ours = CLIPTextEncoder(vocab_size=64, max_seq_len=20, embed_dim=32, num_heads=4, num_layers=3).eval()
    state = dict(theirs.state_dict())
    prefix = "" if "text_model.final_layer_norm.weight" in state else "text_model."
    state = {prefix + key: value for key, value in state.items()}
    converted = clip_text_hf_to_tune(state)
    ours.load_state_dict(converted)
    tokens = torch.randint(0, 62, (2, 17))
    tokens[0, 9:] = 63
    tokens[1, 16] = 63
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).pooler_output, **TOLERANCE)
    back = clip_text_tune_to_hf(converted)
    assert set(back) == set(state) - {"text_model.embeddings.position_ids"}
