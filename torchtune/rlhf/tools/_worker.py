"""The process that tools run in: ``python _worker.py FD``. The standard library only, so that it starts in a moment.

It reads JSON requests from the connection FD and answers each with ``{"ok": bool, "value": ...}``. What a tool prints goes
to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def load(reference: dict[str, str]) -> Any:
    """A function or class by module and name; a module that is not on the path is loaded from its file."""
    name = reference["module"]
    if name == "__main__":  # that of the process that trains, not this one
        module = _from_file("__tools__", reference["file"])
    else:
        try:
            module = importlib.import_module(name)
        except ImportError:
            module = _from_file(name, reference["file"])
    found: Any = module
    for part in reference["name"].split("."):
        found = getattr(found, part)
    return found


def _from_file(name: str, file: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def bounded(value: Any, limit: int) -> dict[str, Any]:
    """A result as a JSON value, and whether it is cut: text that is too long is, with a note; what is no JSON becomes text."""
    if not isinstance(value, str):
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            text = value = str(value)
    else:
        text = value
    if len(text) <= limit:
        return {"value": value, "cut": False}
    note = f"... [cut: the result has {len(text):,} characters, these are the first {limit:,}]"
    return {"value": text[:limit] + note, "cut": True}


class Tools:
    """What the process serves: functions, or one object of an environment."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.limit: int = setup["limit"]
        named: dict[str, dict[str, str]] = setup.get("functions", {})
        self.functions: dict[str, Callable[..., Any]] = {name: load(where) for name, where in named.items()}
        self.environment = load(setup["environment"])(**setup["arguments"]) if "environment" in setup else None
        self.names: list[str] = setup["names"]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request; what a tool raises is an answer too."""
        try:
            return {"ok": True, **bounded(self._run(request), self.limit)}
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a tool may even call sys.exit
            return {"ok": False, **bounded(f"Error: {type(error).__name__}: {error}", self.limit)}

    def _run(self, request: dict[str, Any]) -> Any:
        kind = request["do"]
        if kind == "reset":
            return None if self.environment is None else self.environment.reset(request["row"])
        if kind == "reward":
            return float(self.environment.reward())  # type: ignore[union-attr]
        name, arguments = request["name"], request["arguments"]
        if name not in self.names:
            raise LookupError(f"there is no tool {name!r}; there are: {', '.join(self.names)}")
        function = self.functions[name] if self.environment is None else getattr(self.environment, name)
        if not isinstance(arguments, dict):
            raise TypeError(f"the arguments of {name} must be an object, found {arguments!r}")
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise TypeError(f"{name}{inspect.signature(function)}: {error}") from None
        return function(**arguments)


def main() -> None:
    """Answers requests until the other end closes."""
    connection = Connection(int(sys.argv[1]))
    os.dup2(2, 1)
    setup = json.loads(connection.recv_bytes())
    sys.path[:] = setup["path"]
    try:
        tools = Tools(setup)
    except Exception as error:
        said = {"ok": False, "value": f"{type(error).__name__}: {error}", "cut": False}
        connection.send_bytes(json.dumps(said).encode())
        return
    connection.send_bytes(json.dumps({"ok": True, "value": None, "cut": False}).encode())
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(json.dumps(tools.answer(request), ensure_ascii=False).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
