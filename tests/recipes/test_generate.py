"""The generate recipe: a conversation with tools in, a parsed message out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _runs import RECIPES, Run

pytestmark = [pytest.mark.recipes, pytest.mark.slow]

GENERATE = ("generate", "quickstart/generation", f"checkpoint_dir={RECIPES}/quickstart/model", "max_new_tokens=12")


def message_of(stdout: str) -> dict:
    return json.loads(stdout[stdout.index('{\n  "role"') :])


def test_answer_is_printed_as_the_message_it_parses_to(run: Run) -> None:
    message = message_of(run(*GENERATE, "prompt.user=Which city is Lanford?").stdout)
    assert message["role"] == "assistant"
    assert message["content"]


def test_messages_and_tools_come_from_files(run: Run, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Repeat: Lanford"}]
    (tmp_path / "messages.json").write_text(json.dumps(messages))
    message = message_of(run(*GENERATE, "prompt=null", f"messages={tmp_path}/messages.json").stdout)
    assert message["role"] == "assistant"


def test_without_a_cache_the_answer_is_the_same(run: Run) -> None:
    cached, plain = (run(*GENERATE, f"enable_kv_cache={value}").stdout for value in ("true", "false"))
    assert message_of(cached) == message_of(plain)


def test_plain_prompt_is_answered_with_text(run: Run) -> None:
    result = run(*GENERATE, "tools=null", "prompt.user=Which city is Lanford?")
    assert result.stdout.strip()


def test_file_that_is_no_json_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text("[{")
    result = run(*GENERATE, f"tools={tmp_path}/tools.json", ok=False)
    assert "tools: expected JSON" in result.stderr
