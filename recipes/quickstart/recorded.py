"""The quickstart's tools as an environment: a look-up table of the results that a row's own conversation had."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def _key(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps([name, {key: value for key, value in arguments.items() if value is not None}], sort_keys=True)


class RecordedTools:
    """Answers each call as the row's conversation did; any other call is an error that the model reads."""

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

    def convert(self, amount: float, source: str, target: str) -> str:
        """Convert money."""
        return self._look_up("convert", amount=amount, source=source, target=target)

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
