"""Recipes on models that read images: generate, eleuther_eval, and the evaluation of tool calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from torchtune.data import Message
from torchtune.generation import generate_from_images, generate_tokens, image_prompt
from torchtune.models.llama3_2_vision import (
    Llama3VisionTransform,
    llama3_2_vision_decoder,
    llama3_2_vision_encoder,
)
from torchtune.models.llama4 import Llama4Transform, llama4_decoder, llama4_vision_encoder
from torchtune.modules.model_fusion import DeepFusionModel, EarlyFusionModel

pytestmark = pytest.mark.recipes
TINY = {"num_heads": 4, "num_kv_heads": 2, "embed_dim": 32, "max_seq_len": 256}
CLIP = {"patch_size": 14, "num_heads": 2, "clip_embed_dim": 16, "decoder_embed_dim": 32}


def deep() -> DeepFusionModel:
    """Llama 3.2 Vision, tiny."""
    encoder = llama3_2_vision_encoder(
        **CLIP, clip_num_layers=2, clip_hidden_states=[0], num_layers_projection=1, tile_size=28, max_num_tiles=4
    )
    decoder = llama3_2_vision_decoder(
        **TINY, vocab_size=128_256, num_layers=2, fusion_interval=2, num_special_tokens=8, encoder_max_seq_len=64,
        intermediate_dim=48,
    )  # fmt: skip
    return DeepFusionModel(decoder, encoder)


def early() -> EarlyFusionModel:
    """Llama 4, tiny."""
    encoder = llama4_vision_encoder(
        **CLIP, clip_num_layers=1, projection_embed_dim=32, tile_size=56, max_num_tiles=1, in_channels=3
    )
    decoder = llama4_decoder(**TINY, vocab_size=202_048, num_layers=2, hidden_dim=32, num_experts=2)
    return EarlyFusionModel(decoder, {"vision": encoder}, {"vision": 200_092})


def filled(model: nn.Module) -> nn.Module:
    """With weights that let images matter."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    model.decoder.output.weight.data[200:] = 0.0  # the tests' vocabulary is smaller than the model's
    return model.eval()


def vision3(path: str) -> Llama3VisionTransform:
    return Llama3VisionTransform(path, tile_size=28, patch_size=14, dtype=torch.float32)


def vision4(path: str) -> Llama4Transform:
    return Llama4Transform(path, tile_size=56, patch_size=14, max_num_tiles=4, dtype=torch.float32)


FAMILIES = {"llama3_2_vision": (vision3, deep), "llama4": (vision4, early)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tiktoken_file: str) -> tuple[Any, nn.Module]:
    make_transform, make_model = FAMILIES[request.param]
    transform, model = make_transform(tiktoken_file), filled(make_model())
    assert not isinstance(model, EarlyFusionModel) or model.encoder_tokens["vision"] == transform.patch_id
    return transform, model


def picture(shade: int, size: tuple[int, int] = (100, 50)) -> Image.Image:
    image = Image.new("RGB", size, (shade, 10, 10))
    image.paste((255, 255, 255), (10, 10, 40, 40))
    return image


def question(image: Any) -> list[Message]:
    return [Message("user", [{"type": "image", "content": image}, {"type": "text", "content": "What is this?"}])]


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no-cache"])
def test_answers_are_those_of_the_whole_forward_pass(family: tuple[Any, nn.Module], cache: bool) -> None:
    transform, model = family
    batch = image_prompt(transform, question(picture(200)))
    found = generate_from_images(model, batch, max_generated_tokens=5, use_cache=cache, temperature=0.0)
    tokens = batch["tokens"]
    for token in found:
        inputs = {key: value for key, value in batch.items() if key != "tokens"}
        if "encoder_mask" in inputs:
            mask, more = inputs["encoder_mask"], tokens.shape[1] - batch["tokens"].shape[1]
            inputs["encoder_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, more, -1)], dim=1)
        with torch.no_grad():
            assert model(tokens, **inputs)[0, -1].argmax() == token
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    assert not model.caches_are_setup()


def test_another_image_changes_the_first_logits(family: tuple[Any, nn.Module]) -> None:
    transform, model = family
    logits = []
    for shade in (0, 255):
        batch = image_prompt(transform, question(picture(shade)))
        with torch.no_grad():
            logits.append(model(batch.pop("tokens"), **batch)[0, -1])
    assert not torch.allclose(*logits, atol=1e-3)


def test_tiles_are_of_the_models_dtype(family: tuple[Any, nn.Module]) -> None:
    """Transforms make tiles in bf16 unless told otherwise, and a run may be in fp32."""
    transform, model = family
    batch = image_prompt(transform, question(picture(200)))
    image = batch["encoder_input"]["vision"] if "vision" in batch["encoder_input"] else batch["encoder_input"]
    with torch.no_grad():
        whole = model(batch["tokens"], **{key: value for key, value in batch.items() if key != "tokens"})
        image["images"] = image["images"].bfloat16()
        rounded = model(batch.pop("tokens"), **batch)
    assert rounded.dtype is torch.float32
    assert torch.allclose(rounded, whole, atol=0.5) and not torch.equal(rounded, whole)


def test_text_alone_is_answered_in_batches_too(family: tuple[Any, nn.Module]) -> None:
    transform, model = family
    prompts = [transform.prompt_tokens([Message("user", text)]) for text in ("Hi", "What is the weather?")]
    found = generate_tokens(model, prompts, stop_tokens=[], max_generated_tokens=3)  # type: ignore[arg-type]
    for prompt, ids in zip(prompts, found, strict=True):
        with torch.no_grad():
            assert model(torch.tensor([[*prompt, *ids[:2]]]))[0, -1].argmax() == ids[2]
    drawn = generate_tokens(model, prompts, stop_tokens=[], max_generated_tokens=2, temperature=1.0)  # type: ignore[arg-type]
    assert all(len(ids) == 2 for ids in drawn)


def recipe_config(tmp_path: Path, **settings: Any) -> DictConfig:
    common = {"output_dir": str(tmp_path), "device": "cpu", "dtype": "fp32", "seed": 1}
    return OmegaConf.create({**common, "max_new_tokens": 4, "temperature": 0.0, "top_k": None, **settings})


@pytest.mark.parametrize("structured", [False, True], ids=["prompt", "messages"])
def test_generate_v2_answers_a_picture(family: tuple[Any, nn.Module], structured: bool, tmp_path: Path) -> None:
    from recipes.generate import InferenceRecipe

    picture(200).save(tmp_path / "dog.png")
    user = {"image": str(tmp_path / "dog.png"), "text": "What is this?"}
    content = [{"type": "image_url", "image_url": {"url": user["image"]}}, {"type": "text", "text": user["text"]}]
    asked = {"messages": [{"role": "user", "content": content}]} if structured else {"prompt": {"user": user}}
    recipe = InferenceRecipe(recipe_config(tmp_path, **asked))
    recipe.tokenizer, recipe.model = family  # type: ignore[assignment]
    batch = image_prompt(recipe.tokenizer, recipe.conversation()[0], official=structured)
    ids = generate_from_images(recipe.model, batch, max_generated_tokens=4, temperature=0.0, stop_tokens=[])
    text = recipe.generate()
    assert text and (structured or text == recipe.tokenizer.decode(ids) or set(ids) & {*recipe.tokenizer.stop_tokens})


def test_an_image_for_a_text_model_is_refused(tmp_path: Path) -> None:
    from recipes.generate import InferenceRecipe

    picture(1).save(tmp_path / "dog.png")
    recipe = InferenceRecipe(
        recipe_config(tmp_path, prompt={"user": {"image": str(tmp_path / "dog.png"), "text": "What?"}})
    )
    recipe.tokenizer = type("Plain", (), {"stop_tokens": []})()
    with pytest.raises(ValueError, match="The prompt has an image, but Plain reads text only"):
        recipe.generate()


TASK = """
task: pictures
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "<image>What is this?"
doc_to_image: [image]
doc_to_target: answer
generation_kwargs: {{until: ["."], max_gen_toks: 3, do_sample: false}}
metric_list:
  - metric: exact_match
"""


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_the_harness_asks_about_pictures(family: tuple[Any, nn.Module], chat: bool, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from recipes.eleuther_eval import HarnessModel

    transform, model = family
    features = Features({"image": ImageFeature(), "answer": Value("string")})
    rows = {"image": [picture(0), picture(255)], "answer": ["a dog", "a cat"]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "pictures.yaml").write_text(TASK.format(data=tmp_path / "rows.parquet"))
    harness = HarnessModel(model, transform, device=torch.device("cpu"), max_length=256)
    found: Any = simple_evaluate(
        harness, tasks=["pictures"], apply_chat_template=chat, log_samples=True,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )  # fmt: skip
    assert found["results"]["pictures"]["exact_match,none"] == 0.0
    answers = [sample["resps"][0][0] for sample in found["samples"]["pictures"]]
    for image, answer in zip(rows["image"], answers, strict=True):
        batch = image_prompt(transform, question(image))
        ids = generate_from_images(
            model, batch, max_generated_tokens=3, temperature=0.0, stop_tokens=transform.official_stop_tokens
        )
        assert answer == harness._cut(ids, {"until": ["."]})
