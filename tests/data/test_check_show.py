"""Rows as they are shown: the text is what the model reads, what is trained is marked, nothing in it acts."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from torchtune.data import Message, OpenAIToMessages
from torchtune.data._show import print_row, read_views, visible, write_html
from torchtune.data.formats import get_format

EVIL = '<script>alert(1)</script> "&amp;" \x1b[31m <|eot_id|> \u202e 日本語 👩‍🔬 é\x00'
ROW = {"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": "Fine.\n<b>Two</b> lines"}]}
BAD = {"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": EVIL}]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a vocabulary of single bytes, in the form of Llama 3's."""
    lines = (f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256))
    (tmp_path / "tokenizer.model").write_text("".join(lines))
    return tmp_path


def printed(row: Any, model: Any, **options: Any) -> str:
    out = io.StringIO()
    for view in read_views([row], [1], model=model):
        print_row(view, source="rows", file=out, **options)
    return out.getvalue()


def test_pieces_are_the_text_that_the_format_writes() -> None:
    (view,) = read_views([ROW], [1], model="qwen2_5")
    messages = [Message("user", EVIL), Message("assistant", "Fine.\n<b>Two</b> lines")]
    segments = get_format("qwen2_5").render(messages)
    assert [(piece.text, piece.control) for piece in view.pieces] == [(s.text, s.special) for s in segments]
    assert {piece.role for piece in view.pieces if piece.trained} == {"assistant"}
    (sampled,) = read_views([ROW], [1], model="qwen2_5", train_on="sampled")
    trained = "".join(piece.text for piece in sampled.pieces if piece.trained)
    assert trained == "".join(s.text for s in segments if s.sampled)


def test_calls_alone_can_be_shown_as_trained() -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    call = {"role": "assistant", "content": "Wait.", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    row = {"messages": [{"role": "user", "content": "q"}, call], "tools": [tool]}
    (view,) = read_views([row], [1], model="qwen2_5", train_on="calls")
    trained = "".join(piece.text for piece in view.pieces if piece.trained)
    assert trained.startswith("\n<tool_call>") and trained.endswith("</tool_call><|im_end|>")


def test_pieces_hold_the_tokens_that_training_sees(model: Path) -> None:
    from torchtune.models.llama3 import llama3_tokenizer

    (view,) = read_views([ROW], [1], model=model)
    tokenizer = llama3_tokenizer(str(model / "tokenizer.model"))
    tokens, mask = tokenizer.tokenize_messages(OpenAIToMessages()(ROW)["messages"])
    assert [token for piece in view.pieces for token in piece.ids] == tokens
    assert [not piece.trained for piece in view.pieces for _ in piece.ids] == mask
    text = "".join(piece.text for piece in view.pieces)
    assert EVIL in text, "letters of several tokens are put together"
    assert [piece.text for piece in view.pieces if len(piece.ids) > 1 and piece.text != "�"][:3] == [
        "\u202e",
        "日",
        "本",
    ]
    assert [piece.control for piece in view.pieces if piece.text == "<|eot_id|>"] == [True, True]


def test_a_terminal_gets_no_control_characters_and_marks_where_there_is_no_colour(model: Path) -> None:
    text = printed(ROW, model)
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert "\\x1b[31m" in text and "日本語 👩‍🔬 é" in text
    trained = re.search("⟦(.*?)⟧", text.split("is trained)")[1], re.DOTALL)
    assert trained is not None
    assert trained[1].endswith("Fine.\n<b>Two</b> lines<|eot_id|>")
    assert "⟨128009⟩" in printed(ROW, model, ids=True)


def test_a_terminal_with_colour_shows_what_is_trained_in_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(ROW, model)
    assert re.search(r"\x1b\[[\d;]*48;[\d;]*m\n*Fine\.", text)
    assert "⟦" not in text


class Page(HTMLParser):
    """The tags of a page, and the text in its blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.blocks: list[str] = []
        self._in_block = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "pre":
            self._in_block = True
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_block = self._in_block and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._in_block:
            self.blocks[-1] += data


@pytest.mark.parametrize("ids", [False, True])
def test_a_page_shows_the_text_of_rows_and_lets_none_of_it_act(model: Path, tmp_path: Path, ids: bool) -> None:
    page = tmp_path / "page.html"
    views = read_views([ROW, BAD, 3], [1, 2, 3, 9], model=model)
    assert write_html(page, views, title="<img src=x>/<i>rows</i>", ids=ids) == 3
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.tags.isdisjoint({"script", "img", "link", "iframe", "a", "object"})
    assert "http://" not in text and "https://" not in text, "the page needs nothing but itself"
    assert not any(name.startswith("on") for name in parsed.attributes)
    assert "\x1b" not in text and "\u202e" not in text
    if not ids:
        shown = "".join(parsed.blocks).replace("↵", "")
        assert visible(EVIL) in shown
        assert '</span>\nFine.<span class="nl">↵</span>\n&lt;b&gt;Two&lt;/b&gt; lines</span>' in text
    else:
        assert "<i>128009</i>" in text
    assert "role_order" in text and "not_an_object" in text
    assert html.escape(EVIL[:9]) in text or ids


def test_a_row_that_cannot_be_written_is_shown_as_it_stands_with_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + '{"messages": [\n')
    (view,) = read_views(path, [2], model="llama3_1")
    assert (view.line, view.row, view.pieces) == (3, 2, [])
    assert [error.kind for error in view.errors] == ["bad_json"]
    assert '{"messages": [' in printed_view(view)


def test_both_sides_of_a_preference_are_shown(tmp_path: Path) -> None:
    said = (
        [{"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "A"}],
        [{"role": "assistant", "content": "B"}],
    )
    (view,) = read_views([{"prompt": said[0], "chosen": said[1], "rejected": said[2]}], [1], model="qwen3")
    assert not view.errors
    roles = [(piece.message, piece.role) for piece in view.pieces if piece.text in ("Hi", "A", "B")]
    assert roles == [(0, "chosen, user"), (1, "chosen, assistant"), (0, "rejected, user"), (1, "rejected, assistant")]


def test_a_long_message_that_is_not_trained_is_folded_and_loses_nothing(tmp_path: Path) -> None:
    question = "\n".join(f"line {number} <b>" for number in range(60))
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": question}]}
    write_html(tmp_path / "page.html", read_views([row], [1], model="qwen3"), title="t")
    parsed = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "\n".join(parsed.blocks).replace("↵", "").count(question) == 2
    assert len(parsed.blocks) == 4


def printed_view(view: Any) -> str:
    out = io.StringIO()
    print_row(view, source="rows.jsonl", file=out)
    return out.getvalue()


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="has 1 rows; expected a row of them, but found 5"):
        read_views([ROW], [5], model="llama3_1")
