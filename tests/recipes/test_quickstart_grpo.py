"""The quickstart's run on rewards: its tools, and its first steps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from _tiny import ASSETS, CONFIGS
from omegaconf import DictConfig, OmegaConf

from recipes.grpo import CONFIG_KEYS, GRPORecipe
from recipes.quickstart.conversations import TOOLS
from recipes.quickstart.recorded import RecordedTools, evaluate
from torchtune.config import check_keys
from torchtune.rlhf.tools import Toolbox
from torchtune.training._run_summary import read_curves

pytestmark = pytest.mark.recipes
ROWS = [json.loads(line) for line in (ASSETS / "data" / "train.jsonl").read_text().splitlines()[:200]]


def load(**settings: Any) -> DictConfig:
    cfg = OmegaConf.load(CONFIGS / "quickstart" / "tool_calling_grpo.yaml")
    assert isinstance(cfg, DictConfig)
    for key, value in settings.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=not isinstance(value, list))
    return cfg


def test_every_recorded_call_gets_its_result_and_any_other_an_error() -> None:
    tools = RecordedTools()
    answered = 0
    for row in ROWS:
        tools.reset(row)
        results = {m["tool_call_id"]: m["content"] for m in row["messages"] if m["role"] == "tool"}
        for call in [call for m in row["messages"] for call in m.get("tool_calls") or []]:
            arguments = json.loads(call["function"]["arguments"])
            assert getattr(tools, call["function"]["name"])(**arguments) == results[call["id"]]
            answered += 1
        with pytest.raises(LookupError, match="get_order knows nothing about .*none"):
            tools.get_order("none")
    assert answered > 150


def test_sums_are_worked_out_whatever_the_row_recorded() -> None:
    tools = RecordedTools()
    tools.reset({"messages": []})
    assert json.loads(tools.calculate("84.5 * 3")) == {"result": 253.5}
    assert json.loads(tools.calculate("(1 + 2) * -3 / 2 - 0.5")) == {"result": -5}
    assert type(evaluate("4.5 * 2")) is int
    assert evaluate("0.1 + 0.2") == 0.3


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("84.5 times 3", "'84.5 times 3' is no sum"),
        ("", "'' is no sum"),
        ("9 ** 9", "is no sum; a sum has numbers"),
        ("abs(-3)", "is no sum"),
        ("True * 3", "is no sum"),
        ("__import__('os').getcwd()", "is no sum"),
        ("1 / 0", "division by zero"),
        ("1e308 * 10", "infinity"),
        ("9" * 201, "has 201 characters, up to 200"),
        ("(" * 150 + "1", "is no sum"),
    ],
)
def test_what_is_no_sum_is_an_error_that_the_model_reads(expression: str, said: str) -> None:
    with Toolbox(environment=RecordedTools) as toolbox:
        toolbox.reset({0: {"messages": []}})
        result = toolbox.call({"call": (0, "calculate", {"expression": expression})})["call"]
    assert result.outcome == "error" and said in result.text


def test_the_environment_offers_the_tools_of_the_rows() -> None:
    def names(schema: dict[str, Any]) -> tuple[str, str, dict[str, str], list[str]]:
        function = schema["function"]
        types = {
            name: value.get("type") for name, value in function["parameters"]["properties"].items() if name != "unit"
        }
        return function["name"], function["description"], types, function["parameters"]["required"]

    toolbox = Toolbox(environment=RecordedTools)
    offered = {schema["function"]["name"]: schema for schema in toolbox.schemas}
    toolbox.close()
    assert {name: names(schema) for name, schema in offered.items()} == {n: names(s) for n, s in TOOLS.items()}


def test_prompts_are_refunds_and_sums_and_held_out_orders_are_in_no_other_row() -> None:
    def rows(split: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (ASSETS / "data" / f"orders_{split}.jsonl").read_text().splitlines()]

    def calls(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [call["function"] for message in row["messages"] for call in message.get("tool_calls") or []]

    orders = {}
    for split in ("train", "test"):
        made = [tuple(call["name"] for call in calls(row)) for row in rows(split)]
        half = len(made) // 2
        assert set(made[:half]) == {("get_order", "refund")} and set(made[half:]) == {("get_order", "calculate")}
        orders[split] = {json.loads(calls(row)[0]["arguments"])["order_id"] for row in rows(split)}
    supervised = [json.loads(line) for line in (ASSETS / "data" / "train.jsonl").read_text().splitlines()]
    seen = orders["train"].union(*map(ids, supervised))
    assert len(orders["test"]) > 70 and not orders["test"] & seen


def ids(row: dict[str, Any]) -> list[str]:
    return re.findall(r"\b[A-H]\d{3,4}\b", row["messages"][0]["content"])


def test_the_first_two_steps_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load(
        output_dir=str(tmp_path), assets=str(ASSETS), base_model_path=str(ASSETS / "model"), batch_size=2, grpo_samples=2,
        num_steps=2, epochs=1, max_generated_tokens=8, eval_rewards__dataset__split="train[:3]",
    )  # fmt: skip
    assert check_keys(cfg, CONFIG_KEYS, strict=True) == []
    recipe = GRPORecipe(cfg)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert recipe.global_step == 2
    assert list(recipe.reward_scores) == ["before", "after"]
    printed = capsys.readouterr().out
    assert "Rewards, 3 held-out prompts" in printed and "before" in printed and "reward/ExactCallsReward" in printed
    assert [step for step, _ in read_curves(tmp_path / "metrics.jsonl")["eval/reward"]] == [0, 2]
    assert [step for step, _ in read_curves(tmp_path / "metrics.jsonl")["reward"]] == [1, 2]
    page = (tmp_path / "summary.html").read_text()
    assert "<h2>Reward</h2>" in page
    pytest.importorskip("PIL")
    assert (tmp_path / "reward_curve.png").stat().st_size > 1000
