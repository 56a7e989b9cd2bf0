from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from torchtune.config import InstantiationError, instantiate
from torchtune.config._errors import remember_source
from torchtune.config._instantiate import _instantiate_node
from torchtune.config._utils import _get_component_from_path


@dataclass
class Pair:
    left: object = None
    right: object = None


def make_pair(left: object = None, right: object = None) -> Pair:
    return Pair(left, right)


def test_components_inside_components_and_lists_are_built() -> None:
    config = OmegaConf.create(
        """
        _component_: builtins.dict
        half: {_component_: fractions.Fraction, numerator: 1, denominator: 2}
        many: [{_component_: fractions.Fraction, numerator: 3}, 4]
        """
    )
    assert instantiate(config) == {"half": Fraction(1, 2), "many": [Fraction(3), 4]}


def test_arguments_are_plain_lists_and_dicts() -> None:
    built = instantiate(OmegaConf.create({"_component_": "builtins.dict", "a": [1, {"b": 2}]}))
    assert type(built["a"]) is list
    assert type(built["a"][1]) is dict


def test_keyword_arguments_win_and_mappings_are_merged() -> None:
    config = {"_component_": "builtins.dict", "a": {"b": 1, "c": 2}, "d": 3}
    assert instantiate(config, a={"b": 9}, d=4, e=5) == {"a": {"b": 9, "c": 2}, "d": 4, "e": 5}


def test_an_override_reaches_the_values_that_refer_to_it() -> None:
    config = OmegaConf.create(
        {"root": "/old", "part": {"_component_": "builtins.dict", "a": 1, "b": "${.a}", "c": "${root}/x"}}
    )
    assert instantiate(config.part, a=7) == {"a": 7, "b": 7, "c": "/old/x"}


def test_objects_pass_through_unchanged() -> None:
    pair, fn = Pair(1, 2), len
    built = instantiate(
        OmegaConf.create({"_component_": "builtins.dict", "x": {"y": 1}}), x={"p": pair}, f=fn, t=(1, 2)
    )
    assert built == {"x": {"y": 1, "p": pair}, "f": fn, "t": (1, 2)}
    assert built["x"]["p"] is pair


def test_objects_in_a_plain_dict_pass_through_unchanged() -> None:
    pair = Pair()
    assert instantiate({"_component_": "builtins.dict", "a": pair, "b": {"c": pair}})["b"]["c"] is pair


def test_a_name_without_dots_is_looked_up_at_the_caller() -> None:
    assert instantiate({"_component_": "make_pair", "left": 1}) == Pair(1, None)
    assert instantiate({"_component_": "elsewhere"}, caller_globals={"elsewhere": make_pair}) == Pair()


def test_a_component_in_the_working_directory_is_found(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_parts_of_test.py").write_text("def seven(): return 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p not in ("", str(tmp_path))])
    assert instantiate({"_component_": "my_parts_of_test.seven"}) == 7


def test_a_method_of_a_class_is_found() -> None:
    assert _get_component_from_path("fractions.Fraction.from_float") == Fraction.from_float


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "Invalid path: ''"),
        (123, "Invalid path: '123'"),
        ("nonexistent", r"Could not resolve 'nonexistent': not a module and not found in the caller's globals\."),
        ("os.nonexistent.x", r"Could not import module 'os\.nonexistent': .*"),
        ("os.path.nonexistent", r"Module 'os\.path' has no attribute 'nonexistent'"),
        ("torch.optim.AdamWW", r"Did you mean 'AdamW'\?"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path: object, message: str) -> None:
    with pytest.raises(InstantiationError, match=message):
        _get_component_from_path(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [".relative", "a..b", "a."])
def test_relative_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="Invalid dotstring. Relative imports are not supported."):
        _get_component_from_path(path)


def test_an_import_error_inside_a_module_is_told_as_such(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_part.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InstantiationError, match="not_there_at_all"):
        _get_component_from_path("broken_part.thing")


def test_errors_name_file_and_key() -> None:
    cfg = OmegaConf.create({"a": {"model": {"_component_": "fractions.Fraction", "numerater": 1}}, "b": {"c": 1}})
    remember_source(cfg, "my.yaml")
    with pytest.raises(TypeError, match=r"config key 'a.model' in my.yaml: .*'numerater'. Did you mean 'numerator'\?"):
        instantiate(cfg.a.model)
    with pytest.raises(InstantiationError, match=r"config key 'b' in my.yaml: Cannot instantiate specified object"):
        instantiate(cfg.b)


def test_an_error_inside_a_nested_component_names_its_key() -> None:
    cfg = OmegaConf.create({"x": {"_component_": "builtins.dict", "y": [{"_component_": "os.nope"}]}})
    with pytest.raises(InstantiationError, match=r"config key 'x.y\[0\]': Module 'os' has no attribute 'nope'"):
        instantiate(cfg.x)


def test_what_is_not_callable_is_refused() -> None:
    with pytest.raises(InstantiationError, match="'os.sep' is a str"):
        instantiate({"_component_": "os.sep"})


def test_a_missing_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'func'"):
        instantiate({"_component_": "needs_func"}, caller_globals={"needs_func": lambda func: func})


@pytest.mark.parametrize("config", ["text", [1, 2], 3])
def test_what_is_no_mapping_is_refused(config: object) -> None:
    with pytest.raises(ValueError, match="instantiate only supports DictConfigs or dicts, got"):
        instantiate(config)  # type: ignore[arg-type]


def test_nothing_gives_nothing() -> None:
    assert instantiate(None) is None  # type: ignore[arg-type]
    assert instantiate(OmegaConf.create({"a": None}).a) is None


def test_an_unknown_interpolation_keeps_its_type() -> None:
    with pytest.raises(InterpolationKeyError, match="nope"):
        instantiate(OmegaConf.create({"_component_": "builtins.dict", "a": "${nope}"}))


def test_values_without_components_stay() -> None:
    assert _instantiate_node({"a": [1, "x"]}) == {"a": [1, "x"]}
