"""Tools run in processes of their own: nothing that they do reaches the training process but a bounded answer."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_tools

from torchtune.rlhf.tools import Toolbox, function_schema


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    names = ("add", "find", "fail", "leave", "flood", "odd", "wait_together")
    with Toolbox([getattr(sample_tools, name) for name in names], timeout_s=60, max_result_chars=200, workers=3) as box:
        yield box


def one(box: Toolbox, name: str, /, **arguments: Any) -> Any:
    return box.call({"call": ("conversation", name, arguments)})["call"]


def test_result_comes_back_as_a_value(toolbox: Toolbox) -> None:
    assert one(toolbox, "add", a=1, b=2.5).value == 3.5
    assert one(toolbox, "find", name="Ulm").value == {"name": "Ulm", "kinds": None, "unit": "km"}
    assert one(toolbox, "odd").text == "{1, 2}"


def test_exception_comes_back_as_text(toolbox: Toolbox) -> None:
    result = one(toolbox, "fail", reason="no such town")
    assert (result.outcome, result.value) == ("error", "Error: RuntimeError: no such town")


def test_wrong_calls_say_what_was_expected(toolbox: Toolbox) -> None:
    assert "there are: add, find" in one(toolbox, "subtract", a=1).value
    result = one(toolbox, "add", a=1, c=2)
    assert result.outcome == "error" and "add(a: 'float', b: 'float')" in result.value and "missing" in result.value
    wrong = toolbox.call({0: ("conversation", "add", ["not", "an", "object"])})[0]
    assert wrong.outcome == "error" and "must be an object" in wrong.value


def test_ten_megabytes_come_back_cut(toolbox: Toolbox, caplog: pytest.LogCaptureFixture) -> None:
    result = one(toolbox, "flood")
    assert result.outcome == "ok" and result.cut and len(result.value) < 300
    assert "Tool call flood: " in caplog.text and "10,000,000 characters" in caplog.text
    assert result.value.endswith("[cut: the result has 10,000,000 characters, these are the first 200]")


def test_process_that_ends_is_replaced(toolbox: Toolbox, caplog: pytest.LogCaptureFixture) -> None:
    assert one(toolbox, "leave").outcome == "lost"
    assert "leave" in caplog.text
    assert one(toolbox, "add", a=1, b=1).value == 2


def test_parallel_calls_run_together(toolbox: Toolbox, tmp_path: Path) -> None:
    # Each of the three comes back only once the other two run
    calls: Any = {i: ("c", "wait_together", {"folder": str(tmp_path), "number": i, "count": 3}) for i in range(3)}
    assert {result.value for result in toolbox.call(calls).values()} == {"together"}


def test_more_calls_than_processes_all_run(toolbox: Toolbox) -> None:
    results = toolbox.call({i: ("c", "add", {"a": i, "b": 1}) for i in range(9)})
    assert [results[i].value for i in range(9)] == [i + 1 for i in range(9)]


def test_tool_that_hangs_is_ended_and_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with Toolbox([sample_tools.hang, sample_tools.add], timeout_s=1.5, workers=2) as box:
        results = box.call({"hung": ("a", "hang", {}), "fine": ("a", "add", {"a": 1, "b": 2})})
        assert results["hung"].outcome == "timeout" and "longer than 1.5 seconds" in results["hung"].value
        assert results["fine"].value == 3.0
        assert "hang" in caplog.text
        assert one(box, "add", a=2, b=2).value == 4


def test_each_conversation_has_an_environment_of_its_own() -> None:
    with Toolbox(environment=sample_tools.Shop, environment_arguments={"stock": 1}, timeout_s=60) as box:
        assert [schema["function"]["name"] for schema in box.schemas] == ["buy", "sleep"]
        assert list(box.schemas[0]["function"]["parameters"]["properties"]) == ["what"]
        box.reset({"one": {"wanted": ["tea"]}, "two": {"wanted": ["jam"]}})
        results = box.call({0: ("one", "buy", {"what": "tea"}), 1: ("one", "buy", {"what": "jam"})})
        assert [result.text for result in results.values()] == ["bought tea, 1 in all", "Error: ValueError: sold out"]
        assert box.call({0: ("two", "buy", {"what": "tea"})})[0].value == "bought tea, 1 in all"
        assert {key: reward.value for key, reward in box.rewards(["one", "two"]).items()} == {"one": 1.0, "two": 0.0}
        assert box.call({0: ("two", "reset", {"row": {}})})[0].outcome == "error"  # no tool
        box.end(["one", "two"])
        box.reset({"three": {"wanted": []}})
        assert box.rewards(["three"])["three"].value == 1.0


def test_environment_that_hangs_is_lost_for_its_conversation_alone() -> None:
    with Toolbox(environment="sample_tools.Shop", timeout_s=1.5) as box:
        box.reset({"one": {"wanted": []}, "two": {"wanted": []}})
        results = box.call(
            {0: ("one", "sleep", {}), 1: ("one", "buy", {"what": "x"}), 2: ("two", "buy", {"what": "x"})}
        )
        assert [results[i].outcome for i in range(3)] == ["timeout", "lost", "ok"]
        box.reset({"one": {"wanted": []}})
        assert box.call({0: ("one", "buy", {"what": "x"})})[0].outcome == "ok"


def test_schema_is_made_of_signature_and_docstring() -> None:
    assert function_schema(sample_tools.find) == {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Find a place. It may take a moment.",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "what it is called, in full."},
                    "kinds": {
                        "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}],
                        "description": "what it may be.",
                    },
                    "unit": {"type": "string", "enum": ["km", "mi"]},
                },
                "required": ["name"],
            },
        },
    }


class Colour(enum.Enum):
    RED = "red"


def paint(colour: Colour, times: int | None = None, extra: dict[str, int] | None = None) -> None:
    """Paint."""


def test_enums_and_unions_have_schemas() -> None:
    properties = function_schema(paint)["function"]["parameters"]["properties"]
    assert properties["colour"] == {"type": "string", "enum": ["red"]}
    assert properties["times"] == {"type": ["integer", "null"]}
    assert properties["extra"]["anyOf"][0] == {"type": "object", "additionalProperties": {"type": "integer"}}


def silent(a: int) -> None: ...


def untyped(a) -> None:  # type: ignore[no-untyped-def]
    """Do."""


def unnamed(*values: int) -> None:
    """Do."""


def strange(a: bytes) -> None:
    """Do."""


@pytest.mark.parametrize(
    ("function", "problem"),
    [(silent, "no docstring"), (untyped, "no annotation"), (unnamed, "by name"), (strange, "JSON cannot express")],
)
def test_functions_that_are_no_tools_are_refused(function: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        function_schema(function)


def test_toolboxes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="either functions or environment"):
        Toolbox()
    with pytest.raises(ValueError, match="no method reset"):
        Toolbox(environment=Colour)
    with pytest.raises(ValueError, match="top of a module"):
        Toolbox([lambda: None])
