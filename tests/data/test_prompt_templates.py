"""Prompt templates."""

from __future__ import annotations

import pytest

from torchtune.data import (
    ChatMLTemplate,
    GrammarErrorCorrectionTemplate,
    Message,
    PromptTemplate,
    QuestionAnswerTemplate,
    SummarizeTemplate,
    ToolCall,
)
from torchtune.data._prompt_templates import _get_prompt_template


def texts(messages: list[Message]) -> list[list[str]]:
    return [[part["content"] for part in m.content] for m in messages]


CHAT = [Message("system", "s"), Message("user", "u"), Message("assistant", "a")]


def test_text_goes_around_the_content_of_its_role() -> None:
    template = PromptTemplate({"user": ("Q: ", "\n"), "assistant": (None, "!")})  # type: ignore[dict-item]
    assert texts(template(CHAT)) == [["s"], ["Q: ", "u", "\n"], ["a", "!"]]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        (GrammarErrorCorrectionTemplate, "Correct this to standard English: ", "\n---\nCorrected: "),
        (SummarizeTemplate, "Summarize this dialogue:\n", "\n---\nSummary:\n"),
        (QuestionAnswerTemplate, "Question: ", "\n\nAnswer: "),
    ],
)
def test_task_templates(template: type, before: str, after: str, inference: bool) -> None:
    assert texts(template()(CHAT, inference)) == [["s"], [before, "u", after], ["a"]]


def test_chatml_leaves_an_empty_last_answer_open() -> None:
    closed = [["<|im_start|>user\n", "u", "<|im_end|>\n"], ["<|im_start|>assistant\n", "a", "<|im_end|>\n"]]
    assert texts(ChatMLTemplate()(CHAT[1:])) == closed
    assert texts(ChatMLTemplate()([CHAT[1], Message("assistant", "")]))[1] == ["<|im_start|>assistant\n", ""]


def test_both_tool_roles_are_alike() -> None:
    for role in ("tool", "ipython"):
        assert texts(ChatMLTemplate()([Message(role, "r")])) == [["r"]]
        assert texts(PromptTemplate({"tool": ("<", ">")})([Message(role, "r")])) == [["<", "r", ">"]]


def test_all_else_of_a_message_stays_and_the_given_ones_are_not_changed() -> None:
    call = Message("assistant", "a", True, True, False, tool_calls=[ToolCall("f")], reasoning_content="r", weight=0.5)
    [wrapped] = PromptTemplate({"assistant": ("<", ">")})([call])
    assert texts([wrapped]) == [["<", "a", ">"]] and texts([call]) == [["a"]]
    wrapped.content = call.content
    assert wrapped == call


def test_templates_by_path_and_by_texts() -> None:
    assert isinstance(_get_prompt_template("torchtune.data.ChatMLTemplate"), ChatMLTemplate)
    assert texts(_get_prompt_template({"user": ("<", ">")})(CHAT[1:2])) == [["<", "u", ">"]]
    with pytest.raises(ValueError, match="Prompt template must be a dotpath string or dictionary with custom template"):
        _get_prompt_template(["user"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Could not load the prompt template 'torchtune.data.NoSuch'"):
        _get_prompt_template("torchtune.data.NoSuch")
