"""Synthetic tool conversations in OpenAI form: the quickstart's data.

Seven tools, a calculator among them, single calls, parallel calls, chains where a result feeds the next call, and rows where no
call is right.
The test split uses names, numbers, dates and words that no training row has.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]


def _tool(name: str, description: str, required: int | None = None, **properties: str | list[str]) -> dict[str, Any]:
    """A function schema; a list of strings is an enum, and the first ``required`` properties are required."""
    schema = {
        key: {"type": "string", "enum": kind} if isinstance(kind, list) else {"type": kind}
        for key, kind in properties.items()
    }
    parameters = {"type": "object", "properties": schema, "required": list(schema)[:required]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = {
    tool["function"]["name"]: tool
    for tool in (
        _tool("get_weather", "Weather in a city.", 1, city="string", unit=["celsius", "fahrenheit"]),
        _tool("calculate", "Work out a sum.", expression="string"),
        _tool("set_timer", "Start a timer.", minutes="integer", label="string"),
        _tool("find_flights", "Find flights.", origin="string", destination="string", date="string"),
        _tool("send_message", "Send a message.", to="string", text="string"),
        _tool("get_order", "Look up an order.", order_id="string"),
        _tool("refund", "Refund an order.", order_id="string", amount="number"),
    )
}

_STARTS = [
    "Bel",
    "Cor",
    "Dun",
    "Fal",
    "Gor",
    "Hav",
    "Kel",
    "Lan",
    "Mor",
    "Nor",
    "Pel",
    "Quin",
    "Ros",
    "Sel",
    "Tor",
    "Vel",
    "Wen",
    "Yar",
]
_MIDDLES = ["", "a", "e", "i", "o", "an", "en", "er", "in", "or"]
_ENDS = ["dale", "ford", "ham", "mere", "mont", "polis", "port", "stad", "ton", "vale", "via", "wick"]
_FIRST = [
    "Ad",
    "Be",
    "Ca",
    "Da",
    "El",
    "Fi",
    "Ga",
    "He",
    "Io",
    "Ja",
    "Ke",
    "Li",
    "Ma",
    "Na",
    "Ol",
    "Pa",
    "Ro",
    "Sa",
    "Te",
    "Vi",
]
_LAST = ["bel", "dan", "den", "la", "lia", "lin", "mar", "na", "nor", "ra", "ren", "rin", "sa", "sha", "ton", "vin"]
_THINGS = [
    "tea",
    "pasta",
    "rice",
    "bread",
    "eggs",
    "cake",
    "soup",
    "laundry",
    "stretching",
    "reading",
    "nap",
    "pizza",
    "coffee",
    "walk",
    "yoga",
    "piano",
]
_VERBS = ["bring", "find", "check", "water", "pack", "fix", "paint", "clean", "sell", "move"]
_OBJECTS = [
    "the bike",
    "the plants",
    "the tent",
    "the books",
    "the lamp",
    "the car",
    "the boxes",
    "the garden",
    "the door",
    "the keys",
]


class Values:
    """Draws argument values; the ``train`` and ``test`` splits never share one.

    A value belongs to the test split if a checksum of its text says so, hence no list needs to be kept.
    """

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng, self.split = rng, split

    def _draw(self, make: Callable[[], Any]) -> Any:
        while True:
            value = make()
            held_out = sum(ord(c) * (i + 3) for i, c in enumerate(str(value))) % 5 == 0
            if held_out == (self.split == "test"):
                return value

    def city(self) -> str:
        return self._draw(lambda: self.rng.choice(_STARTS) + self.rng.choice(_MIDDLES) + self.rng.choice(_ENDS))

    def person(self) -> str:
        return self._draw(lambda: self.rng.choice(_FIRST) + self.rng.choice(_LAST))

    def amount(self) -> float | int:
        return self._draw(lambda: self.rng.choice([self.rng.randint(2, 999), self.rng.randint(2, 99) + 0.5]))

    def count(self) -> int:
        return self.rng.randint(2, 9)

    def minutes(self) -> int:
        return self._draw(lambda: self.rng.randint(2, 180))

    def order(self) -> str:
        return self._draw(lambda: f"{self.rng.choice('ABCDEFGH')}{self.rng.randint(100, 9999)}")

    def date(self) -> str:
        return self._draw(lambda: f"2026-{self.rng.randint(1, 12):02d}-{self.rng.randint(1, 28):02d}")

    def thing(self) -> str:
        return self.rng.choice(_THINGS)

    def errand(self) -> str:
        return self._draw(lambda: f"{self.rng.choice(_VERBS)} {self.rng.choice(_OBJECTS)}")


class Builder:
    """One conversation in the making."""

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng, self.draw = rng, Values(rng, split)
        self.messages: list[Row] = []

    def say(self, role: str, *choices: str) -> None:
        self.messages.append({"role": role, "content": self.rng.choice(choices)})

    def call(self, *calls: tuple[str, dict[str, Any], Any]) -> None:
        """An assistant turn that makes ``calls`` (name, arguments, result), then their results."""
        ids = [f"call_{self.rng.randrange(16**6):06x}" for _ in calls]
        self.messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": i, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                    for i, (name, arguments, _) in zip(ids, calls, strict=True)
                ],
            }
        )
        for i, (_, _, result) in zip(ids, calls, strict=True):
            self.messages.append({"role": "tool", "tool_call_id": i, "content": json.dumps(result)})

    def weather(self, city: str, unit: str | None) -> tuple[str, dict[str, Any], Any]:
        arguments = {"city": city} if unit is None else {"city": city, "unit": unit}
        return "get_weather", arguments, {"degrees": self.rng.randint(-9, 39)}


def _weather(b: Builder) -> set[str]:
    city, unit = b.draw.city(), b.rng.choice([None, None, "celsius", "fahrenheit"])
    tail = "" if unit is None else f" in {unit}"
    b.say(
        "user",
        f"What is the weather in {city}{tail}?",
        f"How warm is it in {city}{tail}?",
        f"Weather for {city}{tail}, please.",
    )
    b.call(b.weather(city, unit))
    b.say("assistant", f"It is {json.loads(b.messages[-1]['content'])['degrees']} degrees in {city}.")
    return {"get_weather"}


def _two_cities(b: Builder) -> set[str]:
    first, second = b.draw.city(), b.draw.city()
    b.say("user", f"Compare the weather in {first} and {second}.", f"How warm is it in {first} and in {second}?")
    b.call(b.weather(first, None), b.weather(second, None))
    degrees = [json.loads(m["content"])["degrees"] for m in b.messages[-2:]]
    b.say("assistant", f"It is {degrees[0]} degrees in {first} and {degrees[1]} in {second}.")
    return {"get_weather"}


def _cost(b: Builder) -> set[str]:
    order, total, count = b.draw.order(), b.draw.amount(), b.draw.count()
    b.say("user", f"What do {count} of order {order} cost?", f"How much is {count} times order {order}?")
    product = total * count
    result = int(product) if product == int(product) else product
    b.call(("get_order", {"order_id": order}, {"total": total}))
    b.call(("calculate", {"expression": f"{total} * {count}"}, {"result": result}))
    b.say("assistant", f"{count} of order {order} cost {result}.")
    return {"get_order", "calculate"}


def _timer(b: Builder) -> set[str]:
    minutes, label = b.draw.minutes(), b.draw.thing()
    b.say("user", f"Set a timer for {minutes} minutes, for {label}.", f"Start a {minutes} minute timer for {label}.")
    b.call(("set_timer", {"minutes": minutes, "label": label}, {"ok": True}))
    b.say("assistant", f"The {label} timer runs for {minutes} minutes.")
    return {"set_timer"}


def _flights(b: Builder) -> set[str]:
    origin, destination, date = b.draw.city(), b.draw.city(), b.draw.date()
    b.say(
        "user",
        f"Find flights from {origin} to {destination} on {date}.",
        f"I want to fly from {origin} to {destination} on {date}.",
    )
    count = b.rng.randint(1, 9)
    b.call(("find_flights", {"origin": origin, "destination": destination, "date": date}, {"count": count}))
    b.say("assistant", f"There are {count} flights to {destination}.")
    return {"find_flights"}


def _message(b: Builder) -> set[str]:
    to, text = b.draw.person(), b.draw.errand()
    b.say("user", f"Tell {to} to {text}.", f"Send {to} this message: {text}.", f"Write to {to}: {text}.")
    b.call(("send_message", {"to": to, "text": text}, {"sent": True}))
    b.say("assistant", f"I told {to} to {text}.")
    return {"send_message"}


def _timer_and_message(b: Builder) -> set[str]:
    minutes, label, to, text = b.draw.minutes(), b.draw.thing(), b.draw.person(), b.draw.errand()
    b.say("user", f"Set a {minutes} minute timer for {label} and tell {to} to {text}.")
    b.call(
        ("set_timer", {"minutes": minutes, "label": label}, {"ok": True}),
        ("send_message", {"to": to, "text": text}, {"sent": True}),
    )
    b.say("assistant", f"The {label} timer runs, and I told {to} to {text}.")
    return {"set_timer", "send_message"}


def _refund(b: Builder) -> set[str]:
    order, total = b.draw.order(), b.draw.amount()
    b.say("user", f"Refund order {order}.", f"I want my money back for order {order}.")
    b.call(("get_order", {"order_id": order}, {"total": total}))
    b.call(("refund", {"order_id": order, "amount": total}, {"ok": True}))
    b.say("assistant", f"Order {order} is refunded: {total}.")
    return {"get_order", "refund"}


def _thanks(b: Builder) -> set[str]:
    name = b.draw.person()
    b.say("user", f"Hi, I am {name}.", f"Hello, my name is {name}.", f"Good morning, this is {name}.")
    b.say("assistant", f"Hello {name}! What can I do for you?")
    return set()


def _without_the_tool(b: Builder) -> set[str]:
    """A request whose tool is not among the offered ones: the right answer is to say so."""
    needed = b.rng.choice([_weather, _timer, _flights, _message])(b)
    del b.messages[1:]
    b.say("assistant", "I have no tool for that.")
    return {f"-{name}" for name in needed}


SCENARIOS: list[tuple[Callable[[Builder], set[str]], int]] = [
    (_weather, 3), (_two_cities, 3), (_cost, 8), (_timer, 2), (_flights, 3), (_message, 3),
    (_timer_and_message, 3), (_refund, 3), (_thanks, 2), (_without_the_tool, 6),
]  # fmt: skip


def conversations(
    seed: int, split: str, weights: Sequence[int] | None = None, most_tools: int | None = None
) -> Iterator[Row]:
    """Endless rows ``{"messages", "tools"}``.

    Args:
        seed: seed of the draws.
        split: ``train`` or ``test``; the two share no argument value that is drawn from many.
        weights: of the scenarios, in their order; None is those of ``SCENARIOS``.
        most_tools: at most so many tools are offered.
    """
    rng = random.Random(f"{split} {seed}")
    makers, usual = zip(*SCENARIOS, strict=True)
    while True:
        builder = Builder(rng, split)
        uses = rng.choices(makers, weights or usual)[0](builder)
        needed, banned = {n for n in uses if n[0] != "-"}, {n[1:] for n in uses if n[0] == "-"}
        others = [name for name in TOOLS if name not in needed | banned]
        offered = sorted(needed) + rng.sample(others, rng.randint(1, 2) if needed else 2)
        offered = offered[:most_tools]
        rng.shuffle(offered)
        yield {"messages": builder.messages, "tools": [TOOLS[name] for name in offered]}


def plain_conversations(seed: int) -> Iterator[Row]:
    """Endless rows without tools or calls, on which the tiny base model learns to read and to copy before it ever sees a call.

    Some rows ask for JSON between tags, so that the two tags are known tokens, as in any model that is worth tuning.
    """
    rng = random.Random(f"plain {seed}")
    b = Builder(rng, "train")
    kinds: list[tuple[str, Callable[[], Any]]] = [
        ("city", b.draw.city), ("name", b.draw.person), ("amount", b.draw.amount), ("minutes", b.draw.minutes),
        ("order", b.draw.order), ("date", b.draw.date), ("thing", b.draw.thing), ("errand", b.draw.errand),
        ("sum", lambda: f"{b.draw.amount()} * {b.draw.count()}"),
    ]  # fmt: skip
    names = list(TOOLS)
    while True:
        b.messages = []
        facts = {key: make() for key, make in rng.sample(kinds, rng.randint(2, 5))}
        listed = ", ".join(f"{key}: {value}" for key, value in facts.items())
        if rng.random() < 0.5:
            schemas = "\n".join(json.dumps(TOOLS[name]) for name in rng.sample(names, rng.randint(1, 3)))
            b.say("system", f"Some functions:\n{schemas}", f"You are a helpful assistant.\n{schemas}\n")
        for _ in range(rng.randint(1, 3)):
            key = rng.choice(list(facts))
            task = rng.randrange(7)
            if task == 0:
                b.say("user", f"Repeat: {facts[key]}")
                b.say("assistant", str(facts[key]))
            elif task == 1:
                b.say("user", f"{listed}. What is the {key}?", f"Which {key} is in this list? {listed}")
                b.say("assistant", f"The {key} is {facts[key]}.")
            elif task == 2:
                b.say("user", f"Write as JSON: {listed}")
                b.say("assistant", json.dumps(facts))
            elif task == 3:
                b.say("user", f"Read this: {json.dumps(facts)} What is the {key}?")
                b.say("assistant", f"It is {facts[key]}.")
            elif task == 4:
                parts = [{k: v} for k, v in facts.items()][: rng.randint(1, 2)]
                b.say(
                    "user", f"Write between tags: {', '.join(f'{k}: {v}' for part in parts for k, v in part.items())}"
                )
                b.say("assistant", "\n".join(f"<tool_call>\n{json.dumps(part)}\n</tool_call>" for part in parts))
            elif task == 5:
                listed_names = rng.sample(names, rng.randint(1, 3))
                asked = rng.choice(names)
                b.say("user", f"Functions: {', '.join(listed_names)}. Is {asked} among them?")
                b.say("assistant", f"Yes, {asked} is there." if asked in listed_names else f"No, {asked} is not there.")
            else:
                SCENARIOS[rng.randrange(len(SCENARIOS))][0](other := Builder(rng, "train"))
                text = rng.choice([other.messages[0], other.messages[-1]])["content"]
                b.say("user", f"Repeat: {text}")
                b.say("assistant", text)
        yield {"messages": b.messages, "tools": None}
