"""Imports modules and all that are below them, each in a process of its own, and says what each import did. A script:

``python import_zygote.py NAME ... [--preload NAME]`` prints one JSON object: module -> what its process saw.

A process starts with the preloaded modules and nothing else. ``import a.b.c`` runs ``a`` and ``a.b`` first, so the process of a
module is forked from the one that has just imported its package: the same as a fresh one, without paying for the parents again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import traceback
from typing import Any

BEFORE: set[str] = set()
ENVIRONMENT: dict[str, str] = {}


def observe(name: str) -> dict[str, Any]:
    """Imports one module; which top-level modules are new, what reached stdout and stderr, which variables changed."""
    with tempfile.TemporaryFile() as said:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        error = None
        try:
            importlib.import_module(name)
        except BaseException:
            error = traceback.format_exc(limit=-3)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
        said.seek(0)
        printed = said.read().decode()
    new = {module.partition(".")[0] for module in sys.modules} - BEFORE - set(sys.stdlib_module_names)
    changed = [k for k in {**ENVIRONMENT, **os.environ} if ENVIRONMENT.get(k) != os.environ.get(k)]
    return {"new": sorted(new), "printed": printed, "changed": changed, "error": error}


def in_a_child(name: str) -> dict[str, Any]:
    """The module and, from there, all modules below it: name -> what was observed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        found = {name: observe(name)}
        for below in pkgutil.iter_modules(getattr(sys.modules.get(name), "__path__", [])):
            if below.name != "__main__":
                found.update(in_a_child(f"{name}.{below.name}"))
        with os.fdopen(writing, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(answer) if answer else {name: {"error": f"the process ended with status {status}"}}


if __name__ == "__main__":
    roots, _, preload = " ".join(sys.argv[1:]).partition("--preload")
    for preloaded in preload.split():
        importlib.import_module(preloaded)
    BEFORE.update(module.partition(".")[0] for module in sys.modules)
    ENVIRONMENT.update(os.environ)
    print(json.dumps({name: seen for root in roots.split() for name, seen in in_a_child(root).items()}))
