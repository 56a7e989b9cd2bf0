"""Chat templates of Hugging Face models, rendered as ``transformers`` renders them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.data._message import Message

#: Around what a template's ``{% generation %}`` holds.
OPEN, CLOSE = "\ufdd2", "\ufdd3"


@cache
def _environment() -> Any:
    """Jinja, set up as ``transformers`` has it."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols

    from torchtune.modules.transforms.tokenizers._hf_sandbox import LimitedEnvironment

    class Generation(Extension):
        """``{% generation %}...{% endgeneration %}``: what the model itself emits."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Callable[[], str]) -> str:
            return OPEN + caller() + CLOSE

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.limit_filters()
    environment.globals["raise_exception"] = raise_exception
    return environment


class Template:
    """A chat template with the variables it sees beside the conversation, such as ``bos_token``."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self.source = source
        self.variables = dict(variables)
        #: What it writes for the model to go on, once known.
        self.prompt: str | None = None
        #: The time that it sees; one for all renderings of a conversation, so that they can be compared.
        self.now = datetime.now()
        self._compiled: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def __call__(self, messages: list[dict[str, Any]], tools: Any, prompt: bool) -> str:
        """Renders a conversation; marks of ``{% generation %}`` are in the text."""
        from jinja2.exceptions import TemplateError

        from torchtune.modules.transforms.tokenizers._hf_sandbox import MAX_SOURCE, TemplateLimitError, metered

        if self._compiled is None:
            if len(self.source) > MAX_SOURCE:
                raise TemplateLimitError(f"it has {len(self.source):,} characters", f"{MAX_SOURCE:,}")
            self._compiled = metered(lambda: _environment().from_string(self.source))
        variables = {"messages": messages, "tools": tools or None, "documents": None, "add_generation_prompt": prompt}
        variables.update({"strftime_now": self.now.strftime, **self.variables})
        try:
            return metered(lambda: self._compiled.render(variables))
        except TemplateError as error:
            raise ValueError(f"The model's chat template refuses this conversation: {error}") from error


class Texts:
    """Changes every text of a conversation before it is rendered.

    ``change`` takes text, message index or None, and kind ("content", "reasoning", "call", "name" or "tool").
    """

    def __init__(self, change: Callable[[str, int | None, str], str]) -> None:
        self.change = change

    def messages(self, messages: Sequence[Message], arguments_as_text: bool) -> list[dict[str, Any]]:
        """The messages in OpenAI form."""
        return [self._message(i, message, arguments_as_text) for i, message in enumerate(messages)]

    def _message(self, index: int, message: Message, arguments_as_text: bool) -> dict[str, Any]:
        role = "tool" if message.role == "ipython" else message.role
        row: dict[str, Any] = {"role": role, "content": self._content(index, message)}
        if message.tool_calls:
            row["tool_calls"] = []
            for call in message.tool_calls:
                arguments = self.value(call.arguments, index, "call")
                function = {
                    "name": self.change(call.name, index, "call"),
                    "arguments": json.dumps(arguments, ensure_ascii=False) if arguments_as_text else arguments,
                }
                given_id = {} if call.id is None else {"id": self.change(call.id, index, "name")}
                row["tool_calls"].append({**given_id, "type": "function", "function": function})
        if message.reasoning_content is not None:
            row["reasoning_content"] = self.change(message.reasoning_content, index, "reasoning")
        if message.tool_call_id is not None:
            row["tool_call_id"] = self.change(message.tool_call_id, index, "name")
        if message.name is not None:
            row["name"] = self.change(message.name, index, "name")
        return row

    def _content(self, index: int, message: Message) -> Any:
        if message.contains_media:
            return [
                {"type": "text", "text": self.change(part["content"], index, "content")}
                if part["type"] == "text"
                else {"type": "image"}
                for part in message.content
            ]
        return self.change(message.text_content, index, "content")

    def value(self, value: Any, index: int | None, kind: str) -> Any:
        """A JSON value with all its texts changed, keys included."""
        if isinstance(value, str):
            return self.change(value, index, kind)
        if isinstance(value, Mapping):
            return {self.change(str(k), index, kind): self.value(v, index, kind) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(v, index, kind) for v in value]
        return value
