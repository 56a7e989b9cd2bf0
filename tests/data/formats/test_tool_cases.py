"""The table of hard rows: what each family writes, that it reads back, and that the docs page is this table."""

from __future__ import annotations

from pathlib import Path

import pytest
from format_chats import calls_of, own
from tool_cases import CASES, EXPECTED, FAMILIES, outcome, page

from torchtune.data import OpenAIToMessages
from torchtune.data.formats import get_format


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CASES)
def test_rows_come_out_as_the_table_says(name: str, family: str) -> None:
    for data in CASES[name].rows:
        assert outcome(CASES[name], data, family) == EXPECTED[name][family]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "conversations" not in case.rows[0]])
def test_what_is_written_reads_back(name: str, family: str) -> None:
    if EXPECTED[name][family].startswith("Refused"):
        return
    sample = OpenAIToMessages()(CASES[name].rows[0])
    fmt = get_format(family, **CASES[name].options.get(family, {}))
    segments = fmt.render(sample["messages"], sample.get("tools"))
    for index, message in enumerate(sample["messages"]):
        if message.role == "assistant":
            read = fmt.parse(own(segments, index), sample.get("tools"))
            assert calls_of(read.tool_calls) == calls_of(message.tool_calls) and not read.unparsed
            assert read.content.strip() == message.text_content.strip()
            if fmt.writes_reasoning and index == 1:
                assert read.reasoning_content == message.reasoning_content
        else:
            assert not own(segments, index)


def test_families_refuse_only_what_the_table_says() -> None:
    refused = {name: [f for f in FAMILIES if EXPECTED[name][f].startswith("Refused")] for name in CASES}
    assert len(CASES) == 20
    assert {name: families for name, families in refused.items() if families} == {
        "parallel_out_of_order": ["llama3_1"],
        "long_ids": ["mistral_v7"],
        "unknown_id": list(FAMILIES),
        "undeclared_tool": list(FAMILIES),
        "runs": list(FAMILIES),
    }


def test_the_docs_page_is_this_table() -> None:
    written = (Path(__file__).parents[3] / "docs" / "tool_cases.md").read_text(encoding="utf-8")
    assert written == page(), "make it anew: python tests/data/formats/tool_cases.py > docs/tool_cases.md"
