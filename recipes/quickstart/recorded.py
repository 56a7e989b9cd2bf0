"""The quickstart's tools as an environment: a calculator, and a look-up table of the results that a row's own conversation had."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Mapping
from typing import Any


def _key(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps([name, {key: value for key, value in arguments.items() if value is not None}], sort_keys=True)


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_MOST_CHARACTERS = 200


def evaluate(expression: str) -> float:
    """The value of a sum: numbers, + - * / and brackets; a whole value comes as an int.

    Args:
        expression: the sum, such as "84.5 * 3", of up to 200 characters.

    Raises:
        ValueError: if it is anything else.
        ArithmeticError: if it divides by zero, or is too large.
    """
    if len(expression) > _MOST_CHARACTERS:
        raise ValueError(f"the sum has {len(expression)} characters, up to {_MOST_CHARACTERS} are worked out")

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(f"{expression!r} is no sum; a sum has numbers, + - * / and brackets")

    try:
        result = value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError:
        raise ValueError(f"{expression!r} is no sum; a sum has numbers, + - * / and brackets") from None
    rounded = round(result, 10)
    return int(rounded) if rounded == int(rounded) else rounded


class RecordedTools:
    """Works out sums, and answers any other call as the row's conversation did; one that it did not make is an error."""

    def reset(self, row: Mapping[str, Any]) -> None:
        """Takes the calls and results of a row's ``messages``."""
        results = {m["tool_call_id"]: m["content"] for m in row["messages"] if m["role"] == "tool"}
        self._results: dict[str, list[str]] = {}
        for message in row["messages"]:
            for call in message.get("tool_calls") or []:
                key = _key(call["function"]["name"], json.loads(call["function"]["arguments"]))
                self._results.setdefault(key, []).append(results[call["id"]])

    def _look_up(self, name: str, **arguments: Any) -> str:
        found = self._results.get(_key(name, arguments))
        if not found:
            raise LookupError(f"{name} knows nothing about {json.dumps(arguments)}")
        return found.pop(0) if len(found) > 1 else found[0]  # a row may make one call twice

    def get_weather(self, city: str, unit: str | None = None) -> str:
        """Weather in a city."""
        return self._look_up("get_weather", city=city, unit=unit)

    def calculate(self, expression: str) -> str:
        """Work out a sum."""
        return json.dumps({"result": evaluate(expression)})

    def set_timer(self, minutes: int, label: str) -> str:
        """Start a timer."""
        return self._look_up("set_timer", minutes=minutes, label=label)

    def find_flights(self, origin: str, destination: str, date: str) -> str:
        """Find flights."""
        return self._look_up("find_flights", origin=origin, destination=destination, date=date)

    def send_message(self, to: str, text: str) -> str:
        """Send a message."""
        return self._look_up("send_message", to=to, text=text)

    def get_order(self, order_id: str) -> str:
        """Look up an order."""
        return self._look_up("get_order", order_id=order_id)

    def refund(self, order_id: str, amount: float) -> str:
        """Refund an order."""
        return self._look_up("refund", order_id=order_id, amount=amount)
