"""Keys of older configs that still stand in torchtune's own: they do what their present names do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _methods import LORA, teacher
from _tiny import finetune, tiny_config
from omegaconf import OmegaConf

from recipes.finetune import FinetuneRecipe

pytestmark = pytest.mark.recipes


@pytest.mark.parametrize(
    ("older", "present"),
    [
        ({"fsdp": {"cpu_offload": True}}, ("fsdp_cpu_offload", True)),
        ({"fsdp": {"cpu_offload": False}}, ("fsdp_cpu_offload", False)),
        ({"memory_efficient_fsdp_wrap": True}, ("custom_sharded_layers", ["tok_embeddings", "output"])),
        ({"memory_efficient_fsdp_wrap": False}, ("custom_sharded_layers", None)),
    ],
)
def test_an_older_key_is_its_present_one(older: dict[str, Any], present: tuple[str, Any], tmp_path: Path) -> None:
    given = tiny_config(tmp_path, **older)
    cfg = FinetuneRecipe(given).cfg
    assert cfg.get(present[0]) == present[1]
    assert OmegaConf.select(given, present[0]) is None  # the caller's config stays as it was


def test_an_older_key_that_contradicts_its_present_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="fsdp.cpu_offload asks for fsdp_cpu_offload: True, but fsdp_cpu_offload is False"
    ):
        FinetuneRecipe(tiny_config(tmp_path, fsdp={"cpu_offload": True}, fsdp_cpu_offload=False))


def test_a_teacher_may_have_adapters(tmp_path: Path) -> None:
    """A new adapter changes nothing, so the teacher is its base model, and the losses are those of the plain one."""
    short = {"max_steps_per_epoch": 1, "epochs": 1}
    (plain,) = finetune(tiny_config(tmp_path / "plain", LORA, **teacher(tmp_path), **short))
    settings = teacher(tmp_path)
    settings["teacher_model"] = tiny_config(tmp_path, LORA).model
    (adapted,) = finetune(tiny_config(tmp_path / "adapted", LORA, **settings, **short))
    assert adapted["kd_loss"] == pytest.approx(plain["kd_loss"], abs=1e-6)
