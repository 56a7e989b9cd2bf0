"""Every public name is documented in the house style: what it does, its parameters, what it returns and raises."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import json
import pkgutil
import pydoc
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import torchtune

NAMES: dict[str, dict[str, str | None]] = json.loads(
    (Path(__file__).parents[1] / "assets" / "surface" / "names.json").read_text(encoding="utf-8")
)
HEADINGS = ("Args:", "Returns:", "Yields:", "Raises:", "Attributes:", "Example:", "Examples:", "Shapes:", "Note:")

# ``[b, s, d] -> [b, s, v]`` in a summary explains the tensor that comes first, and the one that is returned.
SHAPES = re.compile(r"``\[[^`]*\] -> \[[^`]*\]``")

# Such a summary says what is returned; so does that of a property or a method without parameters.
NAMES_THE_VALUE = re.compile(r"(The|A|An|Whether|How|What|Which|Each|All|Number) ")


def public_modules() -> set[str]:
    """Modules without an underscore in their path, and those that are known for their names."""
    found = {m.name for m in pkgutil.walk_packages(torchtune.__path__, "torchtune.")}
    return {name for name in found if not re.search(r"\._", name)} | set(NAMES)


@functools.cache
def public_objects() -> dict[str, Any]:
    """``module.name`` -> function or class of ours, each once, under the shortest path it is public at."""
    found: dict[int, tuple[str, Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in sorted(public_modules(), key=lambda name: (name.count("."), name)):
            there = importlib.import_module(module)
            for name in dict.fromkeys([*getattr(there, "__all__", ()), *NAMES.get(module, ())]):
                value = getattr(there, name, None)
                ours = str(getattr(getattr(value, "func", value), "__module__", "")).startswith("torchtune")
                if ours and callable(value):
                    found.setdefault(id(value), (f"{module}.{name}", value))
    return dict(found.values())


@functools.cache
def public_objects_by_name() -> dict[str, Any]:
    return {path.rpartition(".")[2]: value for path, value in public_objects().items()}


def sections(doc: str) -> dict[str, str]:
    """A docstring cut at its headings; what comes first is under the empty name."""
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in doc.splitlines():
        if line.strip() in HEADINGS and not line.startswith(" "):
            current = line.strip().rstrip(":")
            parts[current] = []
        else:
            parts[current].append(line)
    return {name: "\n".join(lines) for name, lines in parts.items()}


def entries(section: str) -> set[str]:
    """The names that a section explains: `a (int): ...`, `a, b: ...`, `**kwargs: ...`."""
    heads = re.findall(r"^ {4}(\*{0,2}\w[\w.*, ]*?)(?: \([^:\n]*\))?:", section, re.MULTILINE)
    return {name.strip(" *") for head in heads for name in head.split(",")}


def body(function: Callable[..., Any]) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def own(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a body, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            yield child
            yield from own(child)


def raised(tree: ast.FunctionDef) -> set[str]:
    """The exceptions that a body raises by name."""
    found = set()
    for node in own(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            call = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")
            if name[:1].isupper():
                found.add(name)
    return found - {"NotImplementedError", "StopIteration"}


def returns(tree: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Return) and node.value is not None for node in own(tree)) and not (
        isinstance(tree.returns, ast.Constant) and tree.returns.value is None
    )


def resolve(reference: str, module: str) -> Any:
    """What a cross-reference in a docstring of this module points to, None if that is nothing."""
    if reference.startswith("torchtune."):
        return pydoc.locate(reference)
    there: Any = importlib.import_module(module)
    for part in reference.split("."):
        there = getattr(there, part, None) or public_objects_by_name().get(part)
    return there


def said_elsewhere(value: Any, owner: type | None) -> tuple[dict[str, str], dict[str, str]]:
    """What a docstring may leave out: the sections of a method that this one overrides, and of what it says to see.

    The second value maps this method's parameters to the overridden one's at the same place.
    """
    found: dict[str, str] = {}
    same: dict[str, str] = {}
    texts = []
    if inspect.isclass(value):  # parameters that a class has from a base are explained there
        texts += [base.__doc__ for base in value.__mro__[1:] if base.__module__.startswith("torchtune")]
    for base in owner.__mro__[1:] if owner else ():
        if (above := vars(base).get(value.__name__)) is not None:
            texts.append(above.__doc__)
            with contextlib.suppress(TypeError, ValueError):
                pairs = zip(inspect.signature(value).parameters, inspect.signature(above).parameters, strict=False)
                same = {**dict(pairs), **same}
    pending, followed = [value], set()
    while pending:  # a name may say to see one that says to see another
        current = pending.pop()
        for reference in re.findall(
            r"[Ss]ee :(?:func|class|meth):`~?([\w.]+)`", getattr(current, "__doc__", None) or ""
        ):
            there = resolve(reference, getattr(current, "__module__", value.__module__))
            if id(there) not in followed:
                followed.add(id(there))
                pending.append(there)
                texts.append(getattr(there, "__doc__", ""))
    for text in texts:
        for heading, section in sections(inspect.cleandoc(text or "")).items():
            found[heading] = found.get(heading, "") + "\n" + section
        if NAMES_THE_VALUE.match(text or ""):
            found.setdefault("Returns", "")
    return found, same


def problems(path: str, value: Any, owner: type | None = None) -> list[str]:
    """What is missing in the docstring of a function, a class or a method."""
    name = path.rpartition(".")[2]
    doc = inspect.cleandoc(value.__doc__ or "")
    known, same = said_elsewhere(value, owner)
    if not doc:
        return [] if known else [f"{path}: no docstring"]
    summary = doc.split("\n\n")[0].rstrip()
    found = [] if len(summary) <= 240 and summary.endswith(tuple(".?!:`")) else [f"{path}: no summary, but {summary!r}"]
    function = (
        getattr(value, "__new__" if hasattr(value, "_fields") else "__init__") if inspect.isclass(value) else value
    )
    if inspect.isclass(value) and not (
        hasattr(value, "_fields") or str(getattr(function, "__module__", "")).startswith("torchtune")
    ):
        return found
    generated = not inspect.isfunction(function) or hasattr(function, "__signature__")
    if name.startswith("_") or not callable(function) or (inspect.isclass(value) and issubclass(value, Enum)):
        return found
    parts = sections(doc)
    known = {heading: known.get(heading, "") + "\n" + parts.get(heading, "") for heading in {**known, **parts}}
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    given = {"self", "cls", "_cls", *getattr(value, "keywords", ())}
    wanted = [p.name for p in parameters if p.name not in given and not p.name.startswith("_")]
    explained = entries(known.get("Args", "")) | entries(known.get("Attributes", ""))
    shapes = SHAPES.search(summary) is not None
    if missing := [one for one in wanted[shapes:] if not {one, same.get(one)} & explained]:
        found.append(f"{path}: Args lacks {', '.join(missing)}")
    if extra := entries(parts.get("Args", "")) - set(inspect.signature(function).parameters):
        found.append(f"{path}: Args has {', '.join(sorted(extra))}, which is no parameter")
    tree = None if generated or not function.__module__.startswith("torchtune") else body(function)
    if tree is not None:
        said = shapes or bool(known.keys() & {"Returns", "Yields"}) or not wanted or NAMES_THE_VALUE.match(doc)
        if not said and not inspect.isclass(value) and returns(tree):
            found.append(f"{path}: no Returns")
        if unsaid := sorted(error for error in raised(tree) if error not in known.get("Raises", "")):
            found.append(f"{path}: Raises lacks {', '.join(unsaid)}")
    return found


def all_problems() -> list[str]:
    """The problems of every public function, class, public method and property."""
    found = []
    for path, value in public_objects().items():
        found += problems(path, value)
        for name, member in vars(value).items() if inspect.isclass(value) else ():
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if not name.startswith("_") and inspect.isfunction(member) and member.__module__.startswith("torchtune"):
                found += problems(f"{path}.{name}", member, value)
    return found


def test_every_public_name_says_what_it_does_takes_returns_and_raises() -> None:
    assert len(public_objects()) > 700
    assert all_problems() == []


def test_a_missing_part_of_a_docstring_is_noticed() -> None:
    def bare(a: int) -> None: ...

    def half(a: int, b: int) -> int:
        """Add, if one must.

        Args:
            a: one of them.
            c: the other.
        """
        if a > b:
            raise ValueError("no")
        return a + b

    class Base:
        def whole(self, a: int) -> int:
            """The double of a number.

            Args:
                a: the number.

            Raises:
                ValueError: never.
            """
            return 2 * a

    class Other(Base):
        def whole(self, b: int) -> int:
            if b:
                raise ValueError("no")
            return 3 * b

    def shaped(x: int, y: int) -> int:
        """Join: ``[b, s] -> [b, 2 * s]``."""
        return x + y

    assert problems("shaped", shaped) == ["shaped: Args lacks y"]
    assert problems("bare", bare) == ["bare: no docstring"]
    half.__module__ = "torchtune.test"
    assert problems("half", half) == [
        "half: Args lacks b",
        "half: Args has c, which is no parameter",
        "half: no Returns",
        "half: Raises lacks ValueError",
    ]
    assert problems("Base.whole", Base.whole, Base) == problems("Other.whole", Other.whole, Other) == []


def test_every_public_name_is_in_the_api_reference() -> None:
    """Sphinx documents what a module lists in ``__all__`` and in ``dir``, else what it defines, but no classes in part."""
    folder = Path(__file__).parents[2] / "docs" / "api"
    pages = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.md"))
    named = re.findall(r"auto(?:function|class|data):: (torchtune[\w.]*)", pages)
    shown = {id(pydoc.locate(name)) for name in named}
    for name in re.findall(r"automodule:: (torchtune[\w.]*)\n +:members:\n", pages):
        module = importlib.import_module(name)
        own = [n for n, value in list(vars(module).items()) if getattr(value, "__module__", "") == name and n[0] != "_"]
        members = [getattr(module, member) for member in getattr(module, "__all__", own) if member in dir(module)]
        shown |= {id(member) for member in members if not inspect.isclass(getattr(member, "func", None))}
    public = {path: value for path, value in public_objects().items() if not re.search(r"\._", path)}
    assert [path for path, value in public.items() if id(value) not in shown] == []


def test_every_public_constant_is_in_the_api_reference() -> None:
    """``automodule`` shows those with a comment of their own (``#:``); the others are named on a page."""
    folder = Path(__file__).parents[2] / "docs" / "api"
    pages = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.md"))
    named = {name.rpartition(".")[2] for name in re.findall(r"autodata:: (torchtune[\w.]*)", pages)}
    missing = {}
    for module in public_modules():
        there = importlib.import_module(module)
        source = inspect.getsource(there) if f"automodule:: {module}\n" in pages else ""
        for name in [*getattr(there, "__all__", ()), *NAMES.get(module, ())]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                value = getattr(there, name, None)
            code = inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)
            private = name.startswith("_") or re.search(r"\._", module)
            shown = name in named or re.search(rf"^#: .*\n{name}\b", source, re.M)
            if not (code or private or isinstance(value, functools.partial) or shown):
                missing[name] = f"{module}.{name}"
    assert sorted(missing.values()) == []
