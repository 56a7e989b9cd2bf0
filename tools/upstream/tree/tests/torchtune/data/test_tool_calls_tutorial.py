from __future__ import annotations

import doctest
from pathlib import Path

from torchtune.data import validate_messages


class TestToolCallsTutorial:
    def test_its_examples_give_what_it_says(self):
        (page,) = Path(__file__).parents[3].glob("docs/source/*/tool_calls.rst")
        result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
        assert result.attempted > 10
        assert result.failed == 0

    def test_its_conversations_validate(self):
        (page,) = Path(__file__).parents[3].glob("docs/source/*/tool_calls.rst")
        names = {"__name__": "tutorial"}
        for example in doctest.DocTestParser().get_examples(page.read_text(encoding="utf-8")):
            exec(compile(example.source, str(page), "exec"), names)
        conversations = [
            value for name, value in names.items() if isinstance(value, list) and name.endswith("_messages")
        ]
        assert len(conversations) >= 2
        for messages in conversations:
            validate_messages(messages)
