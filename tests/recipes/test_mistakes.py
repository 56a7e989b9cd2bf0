"""Mistakes in a config of the finetune recipe end with what was found, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _tiny import finetune, tiny_config

from recipes.finetune import CONFIG_KEYS, REQUIRED, FinetuneRecipe
from torchtune import training
from torchtune.config import InstantiationError

pytestmark = pytest.mark.recipes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gradient_accumulation_steps", 0),
        ("batch_size", 0),
        ("epochs", 0),
        ("epochs", "three"),
        ("log_every_n_steps", 0.5),
        ("max_steps_per_epoch", -1),
    ],
)
def test_a_number_that_counts_nothing_is_refused_by_its_key(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{key} is {value!r}; expected a whole number"):
        FinetuneRecipe(tiny_config(tmp_path, **{key: value}))


@pytest.mark.parametrize(
    ("size", "value", "found"),
    [
        ("num_layers", 5, r"Missing key\(s\) in state_dict: layers.4.attn.q_proj.weight, .* in all\)\."),
        ("num_layers", 3, r"Unexpected key\(s\) in state_dict: layers.3.*\."),
        ("intermediate_dim", 256, r".*layers.0.mlp.w1.weight: checkpoint \(384, 128\), model \(256, 128\).*\."),
    ],
    ids=["more layers", "fewer layers", "narrower"],
)
def test_a_checkpoint_of_another_size_is_refused_with_what_differs(
    size: str, value: int, found: str, tmp_path: Path
) -> None:
    settings = {f"model__{size}": value, "enable_activation_checkpointing": True}
    with pytest.raises(
        RuntimeError, match=f"doesn't fit the model: {found}.*qwen2.qwen2 was built.*config.json"
    ) as error:
        finetune(tiny_config(tmp_path, **settings))
    assert "_checkpoint_wrapped_module" not in str(error.value)


def test_validation_without_data_for_it_is_refused(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, run_val_every_n_steps=1)
    del cfg.dataset_val
    with pytest.raises(ValueError, match="run_val_every_n_steps is set, but there is no dataset_val"):
        finetune(cfg)


def test_a_wrong_name_is_told_before_weights_are_read(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, checkpointer__checkpoint_dir="/nowhere")
    cfg.lr_scheduler._component_ = "torchtune.training.lr_schedulers.cosine"
    with pytest.raises(InstantiationError, match="'lr_scheduler'.*no attribute 'cosine'"):
        training.run_recipe(FinetuneRecipe, cfg, CONFIG_KEYS, REQUIRED)
