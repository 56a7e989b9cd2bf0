"""Prompt templates: text put before and after the content of messages, by role."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torchtune.data._message import TOOL_ROLES, Message, Role


class PromptTemplateInterface(Protocol):
    """What tokenizers take as a prompt template."""

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """New messages with the template's text in their contents; ``inference`` where an answer is to be written."""
        ...


class PromptTemplate:
    """Text before and after the content of each message, by role.

    Args:
        template: for a role, the text to put before and after; None or "" puts nothing. Roles without an entry stay
            as they are. ``tool`` and ``ipython`` stand for each other where only one is given.
    """

    def __init__(self, template: dict[Role, tuple[str, str]]) -> None:
        self.template = template

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """New messages with the template's text in their contents."""
        return [_wrapped(message, *_tags(self.template, message.role)) for message in messages]


class ChatMLTemplate:
    """The ChatML markers ``<|im_start|>role`` and ``<|im_end|>`` as text; an empty last answer stays open.

    Source: https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md. Options are ignored.
    """

    template: dict[Role, tuple[str, str]] = {
        "system": ("<|im_start|>system\n", "<|im_end|>\n"),
        "user": ("<|im_start|>user\n", "<|im_end|>\n"),
        "assistant": ("<|im_start|>assistant\n", "<|im_end|>\n"),
        "ipython": ("", ""),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """New messages with ChatML markers in their contents."""
        wrapped = []
        for i, message in enumerate(messages):
            before, after = _tags(self.template, message.role)
            is_open = i == len(messages) - 1 and message.role == "assistant" and not message.text_content
            wrapped.append(_wrapped(message, before, "" if is_open else after))
        return wrapped


GrammarErrorCorrectionTemplate = partial(
    PromptTemplate, template={"user": ("Correct this to standard English: ", "\n---\nCorrected: ")}
)
GrammarErrorCorrectionTemplate.__doc__ = "A template that asks for a text to be put into standard English."

SummarizeTemplate = partial(PromptTemplate, template={"user": ("Summarize this dialogue:\n", "\n---\nSummary:\n")})
SummarizeTemplate.__doc__ = "A template that asks for a summary of a dialogue."

QuestionAnswerTemplate = partial(PromptTemplate, template={"user": ("Question: ", "\n\nAnswer: ")})
QuestionAnswerTemplate.__doc__ = "A template that asks a question."


def _tags(template: Mapping[Any, Sequence[str | None]], role: str) -> Sequence[str | None]:
    """The texts before and after a message of this role; one tool role stands in for the other."""
    for name in (role, *(TOOL_ROLES if role in TOOL_ROLES else ())):
        if name in template:
            return template[name]
    return ("", "")


def _wrapped(message: Message, before: str | None, after: str | None) -> Message:
    """A copy of a message with text put around its content."""
    head = [{"type": "text", "content": before}] if before else []
    tail = [{"type": "text", "content": after}] if after else []
    wrapped = copy.copy(message)
    wrapped.content = [*head, *message.content, *tail]
    return wrapped


def _get_prompt_template(
    prompt_template: str | dict[Role, tuple[str, str]],
) -> PromptTemplateInterface:
    """A prompt template from its dotted path or its texts by role."""
    if isinstance(prompt_template, str):
        module, _, name = prompt_template.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"Could not load the prompt template {prompt_template!r}: {error}") from error
    if isinstance(prompt_template, Mapping):
        return PromptTemplate(dict(prompt_template))
    raise ValueError(
        f"Prompt template must be a dotpath string or dictionary with custom template, got {type(prompt_template)}"
    )
