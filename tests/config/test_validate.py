from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from torchtune import _recipe_registry
from torchtune.config import ConfigError, InstantiationError, check_keys, log_config, validate
from torchtune.config._errors import remember_source


def make(text: str) -> DictConfig:
    cfg = OmegaConf.create(text)
    remember_source(cfg, "my.yaml")
    return cfg


def test_missing_arguments_are_the_recipes_business() -> None:
    validate(make("o: {_component_: fractions.Fraction}"))
    validate(make("o: {_component_: functools.partial}"))


def test_every_wrong_argument_is_told_with_its_key() -> None:
    cfg = make(
        """
        a: {_component_: fractions.Fraction, numerater: 1, zzz: 2}
        b: [{_component_: json.dumps, indent: 1}, {c: {_component_: json.loads, nope: 1}}]
        d: {_component_: shutil.copyfile, nope: 1}
        """
    )
    with pytest.raises(ConfigError) as caught:
        validate(cfg)
    assert len(caught.value.errors) == 3  # json.loads takes any argument
    text = str(caught.value)
    assert "config key 'a' in my.yaml:\nTypeError: Fraction got an unexpected keyword argument 'numerater'" in text
    assert "Did you mean 'numerator'?" in text
    assert "config key 'd' in my.yaml:\nTypeError: copyfile got an unexpected keyword argument 'nope'" in text


def test_a_missing_and_an_unknown_argument_together_are_collected() -> None:
    with pytest.raises(ConfigError, match="unexpected keyword argument 'nope'"):
        validate(make("a: {_component_: shutil.copyfile, src: x, nope: 1}"))


def test_an_unknown_component_is_an_instantiation_error_and_hides_nothing() -> None:
    cfg = make("a: {_component_: os.nope}\nb: {_component_: shutil.copyfile, zzz: 1}")
    with pytest.raises(
        InstantiationError, match="config key 'a' in my.yaml: Module 'os' has no attribute 'nope'"
    ) as caught:
        validate(cfg)
    assert "zzz" in caught.value.also  # type: ignore[attr-defined]


def test_components_inside_components_are_checked() -> None:
    with pytest.raises(ConfigError, match="config key 'a.x.y'"):
        validate(make("a: {_component_: builtins.dict, x: {y: {_component_: shutil.copyfile, zzz: 1}}}"))


def test_config_error_needs_an_error() -> None:
    with pytest.raises(ValueError, match="at least one error"):
        ConfigError([])


def test_an_unknown_key_warns_with_the_nearest_known_one() -> None:
    with pytest.warns(UserWarning, match=r"my.yaml: unknown config key 'batchsize'. Did you mean 'batch_size'\?"):
        assert check_keys(make("batchsize: 1\nseed: 2"), {"batch_size", "seed"}) == ["batchsize"]


def test_under_strict_all_unknown_keys_are_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys(make("strict: true\nbatchsize: 1\nsead: 2"), {"batch_size", "seed"})
    assert len(caught.value.errors) == 2
    with pytest.raises(ConfigError):
        check_keys(make("sead: 2"), {"seed"}, strict=True)


def test_the_argument_wins_over_the_configs_strict() -> None:
    with pytest.warns(UserWarning, match="sead"):
        check_keys(make("strict: true\nsead: 2"), {"seed"}, strict=False)


def test_keys_that_others_refer_to_are_no_mistake() -> None:
    cfg = make("model_dir: /m\nbase: {x: 1}\nfile: ${model_dir}/a\nn: '${base.x}'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_keys(cfg, {"file", "n"}) == []


def test_dotted_keys_declare_what_is_in_a_section() -> None:
    cfg = make("eval: {every_n_step: 5, dataset: {_component_: a.b, z: 1}}\nfree: {any: 1}")
    with pytest.warns(UserWarning, match=r"'eval.every_n_step'. Did you mean 'eval.every_n_steps'\?"):
        assert check_keys(cfg, {"eval.every_n_steps", "eval.dataset", "free"}) == ["eval.every_n_step"]


def test_config_keys_are_read_without_importing_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text("import not_there\nCONFIG_KEYS: frozenset[str] = frozenset({'a', 'b.c'})\n")
    assert _recipe_registry.config_keys(recipe) == {"a", "b.c"}
    recipe.write_text("x = 1\n")
    assert _recipe_registry.config_keys(recipe) == frozenset()


def test_the_logged_config_is_resolved(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="torchtune"):
        log_config("my_recipe", make("b: ${a}/x\na: root"))
    assert "Running my_recipe with resolved config:\n\na: root\nb: root/x\n" in caplog.text
