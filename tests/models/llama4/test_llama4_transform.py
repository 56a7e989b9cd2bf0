"""Llama 4's transform: text as the tokenizer, tokens of tiles, and the model at the end of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from torchtune.data import Message, ToolCall, padded_collate_sft
from torchtune.datasets._sft import SFTTransform
from torchtune.models.llama4 import (
    Llama4Tokenizer,
    Llama4Transform,
    llama4_decoder,
    llama4_transform,
    llama4_vision_encoder,
)
from torchtune.modules.model_fusion import EarlyFusionModel

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


def make(path: str, **options: Any) -> Llama4Transform:
    return Llama4Transform(path, tile_size=56, patch_size=14, dtype=torch.float32, **options)


@pytest.fixture(scope="module")
def transform(tiktoken_file: str) -> Llama4Transform:
    return make(tiktoken_file)


def image(width: int, height: int) -> dict[str, Any]:
    return {"type": "image", "content": Image.new("RGB", (width, height), (200, 10, 10))}


def about(*images: dict[str, Any]) -> list[Message]:
    content = [*images, {"type": "text", "content": "what is it?"}]
    return [Message("user", content, masked=True), Message("assistant", "a dog")]


def as_text(transform: Llama4Transform, tokens: list[int]) -> str:
    return transform.decode(tokens, truncate_at_eos=False, skip_special_tokens=False)


@pytest.mark.parametrize("size", [(56, 56), (100, 50), (112, 112), (50, 200), (10, 10)])
@pytest.mark.parametrize("chat_format", [None, "official"])
def test_an_image_is_written_as_the_reference_processor_writes_it(
    tiktoken_file: str, size: tuple[int, int], chat_format: str | None
) -> None:
    reference = pytest.importorskip("transformers.models.llama4.processing_llama4")
    transform = make(tiktoken_file, chat_format=chat_format)
    sample = transform({"messages": about(image(*size))})
    ratio = transform.clip_transform.canvas(image(*size)["content"])
    expected = reference.Llama4Processor._prompt_split_image(SimpleNamespace(), ratio, transform.patch_tokens_per_tile)
    assert expected in as_text(transform, sample["tokens"])
    assert transform.patch_tokens_per_tile == 4
    tiles = sample["encoder_input"]["vision"]["images"][0]
    assert len(tiles) == ratio[0] * ratio[1] + (ratio != (1, 1))
    assert sample["tokens"].count(transform.patch_id) == len(tiles) * 4


def test_the_last_tile_is_the_whole_image(transform: Llama4Transform) -> None:
    half = Image.new("RGB", (112, 56), (255, 255, 255))
    half.paste((0, 0, 0), (0, 0, 56, 56))
    tiles = transform.transform_image(half)
    assert len(tiles) == 3 and not tiles[0].any() and (tiles[1] == 1).all()
    assert not tiles[2][:, :, :26].any() and (tiles[2][:, :, 30:] == 1).all()


def test_prompts_hold_images_too(transform: Llama4Transform) -> None:
    tokens = transform.prompt_tokens(about(image(100, 50))[:1])
    assert tokens.count(transform.image_id) == 1 and tokens.count(transform.patch_id) == 12


def test_text_is_written_as_the_tokenizer_writes_it(transform: Llama4Transform, tiktoken_file: str) -> None:
    tokenizer = Llama4Tokenizer(tiktoken_file)
    chat = [
        Message("system", "you are a tool"),
        Message("user", "what is the weather"),
        Message("assistant", "", tool_calls=[ToolCall("get_weather", {})]),
    ]
    assert transform.tokenize_messages(chat, tools=TOOLS) == tokenizer.tokenize_messages(chat, tools=TOOLS)
    assert transform.prompt_tokens(chat[:2], tools=TOOLS) == tokenizer.prompt_tokens(chat[:2], tools=TOOLS)
    assert transform.official_stop_tokens == tokenizer.official_stop_tokens
    answer = transform.encode('{"name": "get_weather", "parameters": {}}', add_bos=False, add_eos=False)
    assert transform.parse_tokens([*answer, transform.eot_id]).tool_calls == [ToolCall("get_weather", {})]
    sample = transform({"messages": chat, "tools": TOOLS})
    assert sample["encoder_input"] == {"vision": {"images": []}} and "tools" not in sample


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("limit", range(20, 60, 3))
def test_no_part_of_an_image_is_left_where_it_is_cut(tiktoken_file: str, side: str, limit: int) -> None:
    transform = make(tiktoken_file, max_seq_len=limit, truncation_type=side)
    sample = transform({"messages": [*about(image(56, 56)), *about(image(100, 50))]})
    tokens, tiles = sample["tokens"], sample["encoder_input"]["vision"]["images"]
    assert len(tokens) <= limit and len(tokens) == len(sample["mask"])
    assert tokens.count(transform.patch_id) == 4 * sum(map(len, tiles))
    assert tokens.count(transform.image_start) == tokens.count(transform.image_end) == len(tiles)
    assert tokens[-1] == transform.eos_id


def tiny_model(transform: Llama4Transform) -> EarlyFusionModel:
    torch.manual_seed(0)
    decoder = llama4_decoder(
        vocab_size=202_048,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=16,
        hidden_dim=16,
        max_seq_len=256,
        num_experts=2,
    )
    encoder = llama4_vision_encoder(
        patch_size=14,
        num_heads=2,
        clip_embed_dim=16,
        clip_num_layers=1,
        projection_embed_dim=32,
        decoder_embed_dim=16,
        tile_size=56,
        max_num_tiles=1,
        in_channels=3,
    )
    return EarlyFusionModel(
        decoder,
        {"vision": encoder},
        {"vision": transform.patch_id},
        decoder_trainable=True,
        encoders_trainable=True,
    )


def test_rows_with_images_and_without_train_the_model(transform: Llama4Transform) -> None:
    prepare = SFTTransform(model_transform=transform)
    rows = [about(image(56, 56)), about(image(100, 50), image(20, 70)), about()]
    model = tiny_model(transform)
    # Experts start empty.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    for chosen in (rows, rows[2:]):
        batch = padded_collate_sft([prepare({"messages": row}) for row in chosen])
        labels = batch.pop("labels")
        assert ("encoder_input" in batch) == (len(chosen) > 1)
        logits = model(**batch)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        loss.backward()
        assert torch.isfinite(loss) and logits.shape[:2] == labels.shape


def test_what_a_sample_computes_does_not_depend_on_its_batch(transform: Llama4Transform) -> None:
    prepare = SFTTransform(model_transform=transform)
    samples = [prepare({"messages": about(*images)}) for images in ([image(20, 70), image(56, 56)], [image(100, 100)])]
    model = tiny_model(transform)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    both = padded_collate_sft(samples)
    with torch.no_grad():
        together = model(both["tokens"], encoder_input=both["encoder_input"])
        for row, sample in enumerate(samples):
            one = padded_collate_sft([sample])
            alone = model(one["tokens"], encoder_input=one["encoder_input"])
            assert torch.allclose(together[row, : alone.shape[1]], alone[0], atol=1e-5)


def test_the_builder_has_the_sizes_of_the_released_models(tiktoken_file: str) -> None:
    transform = llama4_transform(tiktoken_file)
    assert transform.patch_tokens_per_tile == 144 and transform.max_seq_len == 8192
    assert len(transform.clip_transform.possible_resolutions) == sum(
        tiles % rows == 0 for tiles in range(1, 17) for rows in range(1, tiles + 1)
    )
