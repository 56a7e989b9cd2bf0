"""Jinja for templates of others: no attribute of Python's objects, and limits on the work and the text of one rendering.

The sandbox of Jinja keeps a template from objects; it may still loop for ever or multiply a text until memory ends. Here each
turn of a loop, each call, filter, operation and output is counted, and one that would make something too large is refused
before it is done.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

#: Characters of a template.
MAX_SOURCE = 1_000_000
#: Turns of loops, calls, filters, operations and outputs of one rendering; a conversation of 1,000 messages needs some 50,000.
MAX_STEPS = 3_000_000
#: Seconds of one rendering.
MAX_SECONDS = 60.0
#: Characters and items of one value, those inside it included.
MAX_SIZE = 50_000_000
#: Characters of all outputs of one rendering, those of macros counted again where they are used.
MAX_OUTPUT = 200_000_000
_MAX_BITS = 100_000
_MAX_WIDTH = 1_000_000
#: Functions whose result may be as large as the product of their arguments.
_MULTIPLYING = {
    "batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "rjust", "slice", "tojson", "truncate",
    "wordwrap", "zfill",
}  # fmt: skip
_WIDTH = re.compile(r"\d{7}")


class TemplateLimitError(ValueError):
    """A chat template asked for more than the limits allow."""

    def __init__(self, found: str, limit: str) -> None:
        super().__init__(
            f"The model's chat template was stopped: {found}, and the limit is {limit}. No conversation needs that; don't "
            "use this template, or shorten the row if it is very long"
        )


class Meter:
    """Counts the work of one rendering."""

    def __init__(self) -> None:
        self.steps = self.output = 0
        self.began = time.monotonic()

    def step(self) -> None:
        """One more step; TemplateLimitError if there were too many, or they took too long."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TemplateLimitError("it took too many steps", f"{MAX_STEPS:,}")
        if self.steps % 256 == 0 and time.monotonic() - self.began > MAX_SECONDS:
            raise TemplateLimitError("it took too long", f"{MAX_SECONDS:.0f} s")


_meter: ContextVar[Meter] = ContextVar("_meter")


def metered(action: Callable[[], Any]) -> Any:
    """What an action on a template gives, counted from zero."""
    token = _meter.set(Meter())
    try:
        return action()
    except (RecursionError, MemoryError, OverflowError) as error:
        raise TemplateLimitError(f"it ended in {type(error).__name__} ({error})", "what Python can hold") from error
    finally:
        _meter.reset(token)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 1


def _weight(value: Any) -> int:
    """Characters and items in a value, a part that it holds twice counted twice, up to the limit."""
    weight, left = 0, [value]
    while left and weight <= MAX_SIZE:
        value = left.pop()
        weight += max(1, _size(value))
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            left += value
    return weight


def _fits(size: int) -> None:
    if size > MAX_SIZE:
        raise TemplateLimitError(f"it makes a value of {size:,} characters or items", f"{MAX_SIZE:,}")


def _bound(name: str, values: list[Any]) -> None:
    """Refuses a call whose result would be too large."""
    if name == "replace" and len(values) > 2 and all(isinstance(value, str) for value in values[:3]):
        text, old, new = values[:3]
        _fits(text.count(old) * len(new))
    elif name in _MULTIPLYING:
        if name.startswith("format") and _WIDTH.search(str(values[0])):
            raise TemplateLimitError("it formats a value to ten million characters or more", f"{_MAX_WIDTH:,}")
        numbers = [abs(value) for value in values if isinstance(value, int)]
        if max(numbers, default=0) > _MAX_WIDTH:
            raise TemplateLimitError(f"it calls {name} with {max(numbers)}", f"{_MAX_WIDTH:,}")
        if name == "join":
            _fits(_of_joined([*values, ""]))
            return
        product = 1
        for value in values if name != "tojson" else values[1:]:
            product *= max(1, abs(value) if isinstance(value, int) else _size(value))
        _fits(product)


def _of_joined(values: list[Any]) -> int:
    """Size of what ``join`` makes, as a filter or a method: the items, and as often what stands between them."""
    items, between = sorted(values[:2], key=lambda value: isinstance(value, str))
    number = (
        _size(items) if isinstance(items, (list, tuple, dict, str)) else MAX_SIZE // 1000
    )  # a generator doesn't say
    return _weight(items) + number * _size(between)


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted and checked; where it wants the context first, it still does."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _meter.get().step()
        _bound(name, [*args[skipped:], *kwargs.values()])
        result = function(*args, **kwargs)
        _fits(_size(result))
        return result

    return call


@pass_context  # with it, Jinja doesn't work them out when it compiles
def _each(_: Any, values: Iterable[Any]) -> Iterator[Any]:
    meter = _meter.get()
    for value in values:
        meter.step()
        yield value


@pass_context
def _joined(_: Any, pieces: list[Any]) -> str:
    _meter.get().step()
    texts = [str(piece) for piece in pieces]
    _fits(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _built(_: Any, value: Any) -> Any:
    _fits(_weight(value))
    return value


@pass_context
def _shown(_: Any, value: Any) -> Any:
    meter = _meter.get()
    meter.step()
    meter.output += _weight(value)
    if meter.output > MAX_OUTPUT:
        raise TemplateLimitError("it writes too much text", f"{MAX_OUTPUT:,} characters")
    return value


class _Counting(NodeTransformer):
    """Puts the counting filters around what loops, joins and writes."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._filter(node.iter, "_each")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(node, "_built")

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.visit_List(node) if node.ctx == "load" else node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._shown(piece) for piece in node.nodes]
        return node

    def _shown(self, piece: nodes.Expr) -> nodes.Expr:
        if not isinstance(piece, nodes.TemplateData):
            return self._filter(piece, "_shown")
        if len(piece.data) < 200:
            return piece
        return self._filter(nodes.Const(piece.data, lineno=piece.lineno), "_shown")

    @staticmethod
    def _filter(value: nodes.Node, name: str) -> nodes.Filter:
        return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class _Generator(CodeGenerator):
    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        counting = _Counting().visit(node)
        counting.set_environment(self.environment)
        super().visit_Template(counting, frame)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with limits; compile and render inside :func:`metered`."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals.pop("lipsum")

    def limit_filters(self) -> None:
        """Counts the filters that are there; call it when all are."""
        self.filters.update({name: _counted(name, function) for name, function in self.filters.items()})
        self.filters.update({"_each": _each, "_joined": _joined, "_built": _built, "_shown": _shown})

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _meter.get().step()
        name = getattr(obj, "__name__", "")
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        if isinstance(owner, str):
            _bound(name, [owner, *args, *kwargs.values()])
        result = super().call(context, obj, *args, **kwargs)
        _fits(_weight(result) if obj is dict else _size(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _meter.get().step()
        if operator == "%" and isinstance(left, str):
            _bound("format", [left, *(right if isinstance(right, tuple) else [right])])
        elif operator == "+":
            _fits(_weight(left) + _weight(right))
        elif operator in ("*", "**"):
            self._bound_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def _bound_product(operator: str, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_BITS:
                raise TemplateLimitError(f"it makes a number of {bits:,} bits", f"{_MAX_BITS:,}")
        elif isinstance(left, int) or isinstance(right, int):
            number, other = (left, right) if isinstance(left, int) else (right, left)
            _fits(max(0, number) * _weight(other) if not isinstance(other, float) else 0)
