"""Runs the calls of a model: in worker processes, together, with a time limit and a bound on what comes back."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from torchtune.rlhf.tools._schema import function_schema

log = logging.getLogger("torchtune")
_START_SECONDS = 60.0  # a tool's module may import something large


@dataclass
class ToolResult:
    """What came of a call.

    Args:
        value: the result, a JSON value; for anything but "ok" a text that says what went wrong.
        outcome: "ok", "error" (the tool raised, or was called wrongly), "timeout" or "lost" (its process ended).
        seconds: how long it took.
        cut: whether the value is only the beginning of a longer one.
    """

    value: Any
    outcome: str = "ok"
    seconds: float = 0.0
    cut: bool = False

    @property
    def text(self) -> str:
        """The result as text."""
        return self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False)


class _Worker:
    """A process that runs one request at a time."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_worker.py")), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.key: Hashable = None
        self.send(setup, _START_SECONDS)
        started = self.receive() if self.connection.poll(_START_SECONDS) else ToolResult("did not start", "timeout")
        if started.outcome != "ok":
            self.kill()
            raise RuntimeError(f"The tools could not be loaded in their process: {started.value}")

    def send(self, request: dict[str, Any], timeout: float) -> None:
        self.sent, self.deadline = time.monotonic(), time.monotonic() + timeout
        self.connection.send_bytes(json.dumps(request).encode())

    def receive(self) -> ToolResult:
        seconds = time.monotonic() - self.sent
        try:
            answer = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return ToolResult("Error: the tool's process ended", "lost", seconds)
        return ToolResult(answer["value"], "ok" if answer["ok"] else "error", seconds, answer["cut"])

    def kill(self) -> None:
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and what the tool itself started
        self.process.wait()


class Toolbox:
    """The tools of a run: functions, or the methods of an environment.

    An environment is a class with ``reset(row)``, which may return nothing, public methods, which are the tools, and, where
    it likes, ``reward()``. Each conversation has an object of its own, in a process of its own. Functions are shared.

    Args:
        functions: functions, or their dotted paths.
        environment: a class, or its dotted path.
        environment_arguments: what it is made with.
        timeout_s: seconds that a call may take; then its process is killed and the model is told.
        max_result_chars: results longer than this are cut, and the model is told.
        workers: processes that run functions at the same time.

    Raises:
        ValueError: if there is neither or both of functions and environment, two tools have one name, or a signature cannot
            be written as a schema.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any] | str] = (),
        environment: type | str | None = None,
        *,
        environment_arguments: Mapping[str, Any] | None = None,
        timeout_s: float = 10.0,
        max_result_chars: int = 4000,
        workers: int = 4,
    ) -> None:
        if bool(functions) == (environment is not None):
            raise ValueError(
                "tools needs either functions or environment: the dotted paths of functions, or of one class"
            )
        from torchtune.config._utils import _get_component_from_path

        self.timeout_s, self.max_workers = timeout_s, workers
        self._setup: dict[str, Any] = {"limit": max_result_chars, "path": sys.path}
        if environment is not None:
            cls: Any = _get_component_from_path(environment) if isinstance(environment, str) else environment
            tools = _methods(cls)
            self._setup |= {"environment": _reference(cls), "arguments": dict(environment_arguments or {})}
            self.has_reward = callable(getattr(cls, "reward", None))
        else:
            found: Any = [_get_component_from_path(f) if isinstance(f, str) else f for f in functions]
            tools = {function.__name__: function for function in found}
            if len(tools) != len(found):
                raise ValueError(f"Two tools have one name: {sorted(function.__name__ for function in found)}")
            self._setup["functions"] = {name: _reference(function) for name, function in tools.items()}
            self.has_reward = False
        self.stateful = environment is not None
        self._setup["names"] = list(tools)
        #: The tools' schemas in OpenAI form.
        self.schemas = [function_schema(tool, name, method=self.stateful) for name, tool in tools.items()]
        self._idle: list[_Worker] = []
        self._own: dict[Hashable, _Worker] = {}
        self._lost: set[Hashable] = set()

    def reset(self, rows: Mapping[Hashable, Mapping[str, Any]]) -> dict[Hashable, ToolResult]:
        """What the start of each conversation came to, by its key: an environment's object is made and given the row.

        Args:
            rows: the row of each conversation, by its key.
        """
        if not self.stateful:
            return {}
        self._lost -= set(rows)
        return self._run({key: {"do": "reset", "row": dict(row)} for key, row in rows.items()}, lambda key: key)

    def call(self, calls: Mapping[Hashable, tuple[Hashable, str, Any]]) -> dict[Hashable, ToolResult]:
        """The results of calls, which run together; those of one conversation to an environment in their order.

        Args:
            calls: for each call the key of its conversation, the tool's name and the arguments.
        """
        requests = {key: {"do": "call", "name": name, "arguments": given} for key, (_, name, given) in calls.items()}
        return self._run(requests, lambda key: calls[key][0])

    def rewards(self, keys: Sequence[Hashable]) -> dict[Hashable, ToolResult]:
        """What the environment says of each conversation; a number where the outcome is "ok".

        Args:
            keys: the conversations, as :meth:`reset` knows them.
        """
        return self._run({key: {"do": "reward"} for key in keys}, lambda key: key)

    def end(self, keys: Sequence[Hashable]) -> None:
        """Gives the processes of conversations back.

        Args:
            keys: the conversations.
        """
        for key in keys:
            if key in self._own:
                self._idle.append(self._own.pop(key))

    def close(self) -> None:
        """Ends all processes."""
        for worker in (*self._idle, *self._own.values()):
            worker.kill()
        self._idle, self._own = [], {}

    def __enter__(self) -> Toolbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_own"):
            self.close()

    def _run(
        self, requests: dict[Hashable, dict[str, Any]], owner: Callable[[Hashable], Hashable]
    ) -> dict[Hashable, ToolResult]:
        """Sends each request as soon as there is a process for it, and gathers the answers."""
        waiting = list(requests)
        busy: dict[Connection, tuple[_Worker, Hashable]] = {}
        results: dict[Hashable, ToolResult] = {}
        while waiting or busy:
            for key in list(waiting):
                worker = self._worker_for(owner(key), [w for w, _ in busy.values()])
                if worker == "lost":
                    text = "Error: the environment was ended after a call that took too long"
                    results[key] = ToolResult(text, "lost")
                    waiting.remove(key)
                elif isinstance(worker, _Worker):
                    worker.send(requests[key], self.timeout_s)
                    busy[worker.connection] = (worker, key)
                    waiting.remove(key)
            if not busy:
                continue
            soonest = min(worker.deadline for worker, _ in busy.values())
            ready = wait(list(busy), timeout=max(soonest - time.monotonic(), 0))
            for connection in ready:
                worker, key = busy.pop(connection)  # type: ignore[call-overload]
                results[key] = self._release(worker, owner(key), worker.receive())
            for connection, (worker, key) in list(busy.items()):
                if worker.deadline <= time.monotonic() and not connection.poll():
                    del busy[connection]
                    text = f"Error: the call took longer than {self.timeout_s:g} seconds and was ended"
                    results[key] = self._release(worker, owner(key), ToolResult(text, "timeout", self.timeout_s))
        for key, result in results.items():
            if result.outcome in ("timeout", "lost") or result.cut:
                said = result.text[-90:] if result.cut else result.value
                log.warning("Tool call %s: %s", requests[key].get("name", requests[key]["do"]), said)
        return results

    def _worker_for(self, owner: Hashable, busy: list[_Worker]) -> _Worker | str | None:
        """A free process for a conversation's request; "lost" if the conversation's own is gone, None if it must wait."""
        if self.stateful:
            if owner in self._lost:
                return "lost"
            if owner not in self._own:
                self._own[owner] = self._idle.pop() if self._idle else _Worker(self._setup)
            worker = self._own[owner]
            return None if worker in busy else worker
        if self._idle:
            return self._idle.pop()
        return _Worker(self._setup) if len(busy) < self.max_workers else None

    def _release(self, worker: _Worker, owner: Hashable, result: ToolResult) -> ToolResult:
        if result.outcome in ("timeout", "lost"):
            worker.kill()
            if self.stateful:
                self._own.pop(owner, None)
                self._lost.add(owner)
        elif not self.stateful:
            self._idle.append(worker)
        return result


def _reference(tool: Any) -> dict[str, str]:
    """Where a function or class is to be found by another process."""
    if "<" in tool.__qualname__:
        raise ValueError(f"{tool.__qualname__} is made inside a function; tools must stand at the top of a module")
    return {"module": tool.__module__, "name": tool.__qualname__, "file": inspect.getfile(tool)}


def _methods(environment: type) -> dict[str, Callable[..., Any]]:
    """The public methods of an environment."""
    if not callable(getattr(environment, "reset", None)):
        raise ValueError(f"environment {environment.__qualname__} has no method reset(row)")
    found: dict[str, Callable[..., Any]] = {
        name: method
        for name, method in inspect.getmembers(environment, inspect.isfunction)
        if not name.startswith("_") and name not in ("reset", "reward")
    }
    if not found:
        raise ValueError(f"environment {environment.__qualname__} has no public method that could be a tool")
    return found
