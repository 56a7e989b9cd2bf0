"""The docs pages that are made from the formats."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from torchtune.data.formats import get_format, list_formats

_FILE = Path(__file__).parents[3] / "docs" / "format_pages.py"


@pytest.fixture(scope="module")
def pages() -> Any:
    spec = importlib.util.spec_from_file_location("format_pages", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", list_formats())
def test_bold_text_is_what_the_model_emits(name: str, pages: Any) -> None:
    segments, fmt, messages = pages.example(name)
    shown = re.findall(r'<pre class="chat">(.*?)</pre>', pages.page(name), re.DOTALL)[0]
    bold = "".join(re.findall(r"<b>(.*?)</b>", shown, re.DOTALL))
    assert html.unescape(re.sub("<[^>]+>", "", bold)) == "".join(s.text for s in segments if s.sampled)
    assert html.unescape(re.sub("<[^>]+>", "", shown)) == "".join(s.text for s in segments)
    assert "24 degrees" in shown and "Rome" in bold  # the call is in it, and its result


@pytest.mark.parametrize("name", list_formats())
def test_pages_tell_options_and_limits(name: str, pages: Any) -> None:
    text, fmt = pages.page(name), get_format(name)
    assert all(f"| `{option}` |" in text for option in fmt.options)
    refused = dict(pages.limits(fmt))
    assert ("a call and its result" in refused) == (not fmt.native_tools)
    assert all(f"| {what} |" in text for what in refused)


def test_limits_are_the_formats_own_words(pages: Any) -> None:
    assert "nine letters or digits" in dict(pages.limits(get_format("mistral_v7")))["a call without an id"]
    assert "takes one" in dict(pages.limits(get_format("llama3_1")))["two calls in one message"]
    assert dict(pages.limits(get_format("qwen2_5")))["reasoning"] == "Left out"
    assert "reasoning" not in dict(pages.limits(get_format("qwen3")))


def test_pages_that_did_not_change_are_left_alone(pages: Any, tmp_path: Path) -> None:
    pages.write_pages(tmp_path / "formats")
    files = sorted((tmp_path / "formats").iterdir())
    assert [path.stem for path in files] == sorted([*list_formats(), "index"])
    times = [path.stat().st_mtime_ns for path in files]
    pages.write_pages(tmp_path / "formats")
    assert [path.stat().st_mtime_ns for path in files] == times
