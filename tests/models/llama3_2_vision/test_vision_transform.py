"""Llama 3.2 Vision's transform: text as the tokenizer, tiles, masks, and the model at the end of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from torchtune.data import Message, ToolCall, padded_collate_tiled_images_and_mask
from torchtune.datasets._sft import SFTTransform
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.llama3_2_vision import (
    Llama3VisionTransform,
    llama3_2_vision_decoder,
    llama3_2_vision_encoder,
    llama3_2_vision_transform,
)
from torchtune.modules.model_fusion import DeepFusionModel
from torchtune.modules.transforms import VisionCrossAttentionMask

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def transform(tiktoken_file: str) -> Llama3VisionTransform:
    return Llama3VisionTransform(tiktoken_file, tile_size=28, patch_size=14, dtype=torch.float32)


def picture(width: int, height: int, shade: int = 200) -> Image.Image:
    return Image.new("RGB", (width, height), (shade, 10, 10))


def image(width: int, height: int) -> dict[str, Any]:
    return {"type": "image", "content": picture(width, height)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "content": words}


def about(*images: dict[str, Any]) -> list[Message]:
    return [Message("user", [*images, text("what is it?")], masked=True), Message("assistant", "a dog")]


def test_text_is_written_as_the_tokenizer_writes_it(transform: Llama3VisionTransform, tiktoken_file: str) -> None:
    tokenizer = Llama3Tokenizer(tiktoken_file, format_options={"date_string": "26 Jul 2024"}, chat_format="llama3_2")
    chat = [Message("user", "what is the weather"), Message("assistant", "", tool_calls=[ToolCall("get_weather", {})])]
    own = Llama3VisionTransform(
        tiktoken_file, tile_size=28, patch_size=14, format_options={"date_string": "26 Jul 2024"}
    )
    assert own.tokenize_messages(chat, tools=TOOLS) == tokenizer.tokenize_messages(chat, tools=TOOLS)
    assert own.prompt_tokens(chat[:1], tools=TOOLS) == tokenizer.prompt_tokens(chat[:1], tools=TOOLS)
    assert own.official_stop_tokens == tokenizer.official_stop_tokens and own.stop_tokens == tokenizer.stop_tokens
    answer = own.encode('{"name": "get_weather", "parameters": {}}', add_bos=False, add_eos=False)
    assert own.parse_tokens([*answer, own.eot_id]).tool_calls == [ToolCall("get_weather", {})]
    assert own.tokenizer.vocab_size == tokenizer.vocab_size and own.pad_id == tokenizer.pad_id


def test_a_sample_gets_tokens_tiles_and_masks(transform: Llama3VisionTransform) -> None:
    sample = transform({"messages": about(image(28, 28), image(56, 20)), "id": 3})
    assert sample.keys() == {"id", "tokens", "mask", "encoder_input", "encoder_mask"}
    assert [tiles.shape[0] for tiles in sample["encoder_input"]["images"]] == [1, 2]
    assert [ratio.tolist() for ratio in sample["encoder_input"]["aspect_ratio"]] == [[1, 1], [1, 2]]
    places = [i for i, token in enumerate(sample["tokens"]) if token == transform.image_id]
    assert len(places) == 2 and all(sample["mask"][place] for place in places)
    first, second = sample["encoder_mask"]
    assert first.shape == (len(sample["tokens"]), 1 * 5) and second.shape == (len(sample["tokens"]), 2 * 5)
    assert first[:, 0].nonzero().flatten().tolist() == list(range(places[0], len(sample["tokens"])))


def test_images_go_with_tools_and_calls(transform: Llama3VisionTransform) -> None:
    messages = [
        Message("user", [image(28, 28), text("where is it?")]),
        Message("assistant", "", tool_calls=[ToolCall("get_weather", {"city": "Paris"})]),
    ]
    sample = transform({"messages": messages, "tools": TOOLS})
    assert sample["tokens"].count(transform.image_id) == 1 and len(sample["encoder_mask"]) == 1
    assert "tools" not in sample


def test_images_that_are_cut_off_are_left_out(tiktoken_file: str) -> None:
    messages = [*about(image(28, 28)), *about(image(56, 20))]
    whole = Llama3VisionTransform(tiktoken_file, tile_size=28, patch_size=14)({"messages": messages})
    limit = whole["tokens"].index(128256, whole["tokens"].index(128256) + 1)
    for side, tiles in (("right", 1), ("left", 2)):
        cut = Llama3VisionTransform(
            tiktoken_file, tile_size=28, patch_size=14, max_seq_len=limit, truncation_type=side
        )({"messages": messages})
        assert len(cut["tokens"]) == limit
        assert [t.shape[0] for t in cut["encoder_input"]["images"]] == [tiles]


@pytest.mark.parametrize(
    "tokens", [[1, 9, 2, 3], [9, 9, 1, 9, 2], [1, 2], [9], [1, 9, 9], [9, 1, 1, 9, 9, 9, 4, 4], [1, 9, 2, 9, 9]]
)
def test_text_sees_the_images_that_the_reference_says(tokens: list[int]) -> None:
    reference = pytest.importorskip("transformers.models.mllama.processing_mllama")
    expected = [
        (start, len(tokens) if end == -1 else end) for start, end in reference.get_cross_attention_token_mask(tokens, 9)
    ]
    assert VisionCrossAttentionMask(28, 14, 9).intervals(tokens) == expected


def test_a_mask_needs_as_many_image_tokens_as_images() -> None:
    sample = {"tokens": [1, 9], "encoder_input": {"images": []}}
    with pytest.raises(ValueError, match="1 image tokens, but 0 images"):
        VisionCrossAttentionMask(28, 14, 9)(sample)


def tiny_model() -> DeepFusionModel:
    torch.manual_seed(0)
    encoder = llama3_2_vision_encoder(
        patch_size=14,
        num_heads=2,
        clip_embed_dim=16,
        clip_num_layers=2,
        clip_hidden_states=[0],
        num_layers_projection=1,
        decoder_embed_dim=32,
        tile_size=28,
        max_num_tiles=4,
    )
    decoder = llama3_2_vision_decoder(
        vocab_size=128_256,
        num_layers=2,
        fusion_interval=2,
        num_special_tokens=8,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=32,
        max_seq_len=256,
        encoder_max_seq_len=64,
        intermediate_dim=48,
    )
    return DeepFusionModel(decoder, encoder, decoder_trainable=True, encoder_trainable=True)


def test_rows_with_images_and_without_train_the_model(transform: Llama3VisionTransform) -> None:
    prepare = SFTTransform(model_transform=transform)
    rows = [about(image(28, 28)), about(image(56, 20), image(20, 70)), about()]
    model = tiny_model()
    for chosen in (rows, rows[2:]):
        batch = padded_collate_tiled_images_and_mask([prepare({"messages": row}) for row in chosen])
        labels = batch.pop("labels")
        logits = model(**batch)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        loss.backward()
        assert torch.isfinite(loss) and logits.shape[:2] == labels.shape
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_builder_has_the_sizes_of_the_released_models(tiktoken_file: str) -> None:
    transform = llama3_2_vision_transform(tiktoken_file)
    assert transform.image_seq_len == 4 * 1601 and transform.max_seq_len == 8192
    assert transform.transform_image.tile_size == 560 and transform.transform_image.dtype == torch.bfloat16
