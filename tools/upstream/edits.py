"""Edits of a torchtune tree by syntax: places are found by class and function name, never by line or by quoted text."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import libcst as cst

Node = TypeVar("Node", bound=cst.CSTNode)
Change = Callable[[Any], Any]


class EditError(Exception):
    """A tree is not as an edit needs it: says what was looked for, where, and what was found."""


class _Apply(cst.CSTTransformer):
    """Replaces nodes, found before by identity."""

    def __init__(self, changes: dict[int, Change]) -> None:
        super().__init__()
        self.changes = changes

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        change = self.changes.get(id(original_node))
        return change(updated_node) if change else super().on_leave(original_node, updated_node)


def _constant(value: cst.CSTNode) -> Change:
    return lambda node: value


def _walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _all(node: cst.CSTNode, kind: type[Node]) -> list[Node]:
    return [found for found in _walk(node) if isinstance(found, kind)]


def _named(body: Sequence[cst.CSTNode], kind: type[Node], name: str, where: str) -> Node:
    """The class or function of a body by its name."""
    there = [node for node in body if isinstance(node, kind)]
    for node in there:
        if node.name.value == name:  # type: ignore[attr-defined]
            return node
    word = "class" if kind is cst.ClassDef else "function"
    names = [node.name.value for node in there]  # type: ignore[attr-defined]
    raise EditError(f"{where} has no {word} {name!r}; found {names}. The edit needs it under this name.")


def _call_method(module: cst.Module, owner: str) -> tuple[cst.ClassDef, cst.FunctionDef, str]:
    """A transform's class, its ``__call__``, and the name of the row there."""
    cls = _named(module.body, cst.ClassDef, owner, "the module")
    method = _named(cls.body.body, cst.FunctionDef, "__call__", f"class {owner!r}")
    names = [param.name.value for param in (*method.params.posonly_params, *method.params.params)]
    if len(names) < 2:
        raise EditError(f"{owner}.__call__ takes {names}; expected self and the row")
    return cls, method, names[1]


def _is_text(node: cst.CSTNode, text: str) -> bool:
    return isinstance(node, cst.SimpleString) and node.evaluated_value == text


def imports_name(source: str, module: str, name: str) -> bool:
    """Whether a module's top level has ``from module import name``."""
    return any(
        isinstance(node, ast.ImportFrom) and node.module == module and name in [alias.name for alias in node.names]
        for node in ast.parse(source).body
    )


def add_import(source: str, module: str, name: str, *, reexported: bool = False) -> str:
    """Add ``from module import name`` where a sorted block of imports has it; ``reexported`` tells linters so."""
    tree = cst.parse_module(source)
    lines = [node for node in tree.body if isinstance(node, cst.SimpleStatementLine)]
    blocks = [line for line in lines if isinstance(line.body[0], (cst.Import, cst.ImportFrom))]
    comment = "  # noqa: F401" if reexported else ""
    line = cst.ensure_type(cst.parse_statement(f"from {module} import {name}{comment}\n"), cst.SimpleStatementLine)
    if not blocks:
        raise EditError("the module imports nothing, so there is no place for an import; is it the right file?")
    for old in blocks:
        first = old.body[0]
        theirs = tree.code_for_node(first.module) if isinstance(first, cst.ImportFrom) and first.module else ""
        if theirs != "__future__" and (_group(theirs), theirs) > (_group(module), module):
            return tree.visit(_Apply({id(old): partial(_precede, added=[line])})).code
    last = blocks[-1]
    if module.split(".")[0] not in tree.code_for_node(last) and _group(module):
        line = line.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    return tree.visit(_Apply({id(last): lambda node: cst.FlattenSentinel([node, line])})).code


def _group(module: str) -> int:
    """Which block of sorted imports a module stands in: the standard library's, or what follows."""
    return 0 if not module or module.split(".")[0] in sys.stdlib_module_names else 1


def remove_function(source: str, name: str) -> str:
    """Remove a function of the module, with its decorators and the comments above it."""
    tree = cst.parse_module(source)
    function = _named(tree.body, cst.FunctionDef, name, "the module")
    return tree.visit(_Apply({id(function): lambda node: cst.RemoveFromParent()})).code


def wrap_rows(source: str, owner: str, column: str, function: str) -> str:
    """In ``owner.__call__``, pass what is read of the row's ``column`` through ``function``."""
    tree = cst.parse_module(source)
    _, method, row = _call_method(tree, owner)

    def reads_row(node: cst.CSTNode) -> bool:
        on = node.value if isinstance(node, cst.Subscript) else None
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            on = node.func.value
        return isinstance(on, cst.Name) and on.value == row

    reads = [node for node in _walk(method.body) if reads_row(node)]
    places = [node for node in reads if any(_is_text(part, column) for part in _walk(node))]
    loops: list[cst.For | cst.CompFor] = [*_all(method.body, cst.For), *_all(method.body, cst.CompFor)]
    looped = [node for node in reads if any(node in _walk(loop.iter) for loop in loops)]
    for candidates in (places, [node for node in places if node in looped], looped, reads):
        if len(candidates) == 1:
            wrap: Change = lambda node: cst.Call(cst.Name(function), [cst.Arg(node)])  # noqa: E731
            return tree.visit(_Apply({id(candidates[0]): wrap})).code
    raise EditError(
        f"{owner}.__call__ must read the column {column!r} of {row!r} in one place, to pass it through {function}; "
        f"found {len(places)} of {len(reads)} places that read {row!r}"
    )


def pass_flag(source: str, owner: str, speaker: str, flag: str) -> str:
    """In ``owner.__call__``, where a ``Message`` is made of each turn, pass the turn's ``flag`` too."""
    tree = cst.parse_module(source)
    _, method, _ = _call_method(tree, owner)
    changes: dict[int, Change] = {}
    for loop in (*_all(method.body, cst.For), *_all(method.body, cst.ListComp)):
        turns = {name for node in _walk(loop) if (name := _read_by_key(node, speaker))}
        made = [
            call for call in _all(loop, cst.Call) if isinstance(call.func, cst.Name) and call.func.value == "Message"
        ]
        if len(turns) != 1:
            continue
        value = cst.parse_expression(f'{turns.pop()}.get("{flag}", False)')
        for call in made:
            if any(arg.keyword and arg.keyword.value == flag for arg in call.args):
                raise EditError(f"a Message in {owner}.__call__ gets {flag!r} already; look at it by hand")
            changes[id(call)] = partial(_add_keyword, name=flag, value=value)
    if not changes:
        raise EditError(
            f"{owner}.__call__ has no loop that makes a Message of each turn, reading the turn's {speaker!r} by name"
        )
    return tree.visit(_Apply(changes)).code


def _read_by_key(node: cst.CSTNode, key: str) -> str | None:
    """The name of what a node reads by a literal key, as ``name[key]`` or ``name.get(key)``."""
    on: cst.CSTNode | None = None
    if isinstance(node, cst.Subscript) and isinstance(node.slice[0].slice, cst.Index):
        on, index = node.value, node.slice[0].slice.value
    elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.args:
        on, index = node.func.value if node.func.attr.value == "get" else None, node.args[0].value
    return on.value if isinstance(on, cst.Name) and _is_text(index, key) else None


def _add_keyword(call: cst.Call, name: str, value: cst.BaseExpression) -> cst.Call:
    """The call with one more argument, laid out like its last one."""
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    if not call.args:
        return call.with_changes(args=[cst.Arg(value, keyword=cst.Name(name), equal=equal)])
    *head, last = call.args
    new = cst.Arg(value, keyword=cst.Name(name), equal=equal, comma=last.comma)
    new = new.with_changes(whitespace_after_arg=last.whitespace_after_arg)
    between = head[-1].comma if head else cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    if not head and isinstance(call.whitespace_before_args, cst.ParenthesizedWhitespace):
        between = cst.Comma(whitespace_after=call.whitespace_before_args)
    return call.with_changes(args=[*head, last.with_changes(comma=between), new])


def add_roles(source: str, owner: str, known: Sequence[str], roles: dict[str, str]) -> str:
    """Add roles to the dict literal with the ``known`` keys that ``owner`` looks speakers up in."""
    tree = cst.parse_module(source)
    cls, method, _ = _call_method(tree, owner)
    for place in (method, cls, tree):
        for table in _all(place, cst.Dict):
            keys = [node.key for node in table.elements if isinstance(node, cst.DictElement)]
            if all(any(_is_text(key, name) for key in keys) for name in known):
                wanted = {key: value for key, value in roles.items() if not any(_is_text(k, key) for k in keys)}
                return tree.visit(_Apply({id(table): partial(_add_elements, items=wanted)})).code
    raise EditError(f"{owner} has no dict with the keys {list(known)}, in which roles of speakers are looked up")


def _add_elements(table: cst.Dict, items: dict[str, str]) -> cst.Dict:
    """The dict with more text items, laid out like its own."""
    *head, last = table.elements
    between = head[-1].comma if head else cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    new = [
        cst.DictElement(cst.SimpleString(f'"{k}"'), cst.SimpleString(f'"{v}"'), comma=between) for k, v in items.items()
    ]
    if not new:
        return table
    new[-1] = new[-1].with_changes(comma=last.comma)
    return table.with_changes(elements=[*head, last.with_changes(comma=between), *new])


def call_on_result(source: str, owner: str, key: str, function: str) -> str:
    """In ``owner.__call__``, call ``function`` on the list that is given back under ``key``, right before it is."""
    tree = cst.parse_module(source)
    _, method, _ = _call_method(tree, owner)
    changes: dict[int, Change] = {}
    for line in _all(method.body, cst.SimpleStatementLine):
        for value in _values(line, key):
            if isinstance(value, cst.Name):
                name = value.value
                added = [cst.parse_statement(f"{function}({name})\n")]
            else:
                name = key
                added = [
                    cst.parse_statement(f"{key} = {tree.code_for_node(value)}\n"),
                    cst.parse_statement(f"{function}({key})\n"),
                ]
                changes[id(value)] = _constant(cst.Name(name))
            changes[id(line)] = partial(_precede, added=added)
    if not changes:
        raise EditError(
            f"{owner}.__call__ gives back no dict with the key {key!r}, before which {function} is to be called"
        )
    return tree.visit(_Apply(changes)).code


def _precede(line: cst.SimpleStatementLine, added: Sequence[Any]) -> cst.FlattenSentinel[Any]:
    """A statement with others before it, where its comments go."""
    first = added[0].with_changes(leading_lines=line.leading_lines)
    return cst.FlattenSentinel([first, *added[1:], line.with_changes(leading_lines=[])])


def _values(line: cst.CSTNode, key: str) -> list[cst.BaseExpression]:
    """What a statement puts under ``key`` of a dict it makes."""
    elements = [e for table in _all(line, cst.Dict) for e in table.elements if isinstance(e, cst.DictElement)]
    values = [element.value for element in elements if _is_text(element.key, key)]
    made = [call for call in _all(line, cst.Call) if isinstance(call.func, cst.Name) and call.func.value == "dict"]
    return values + [arg.value for call in made for arg in call.args if arg.keyword and arg.keyword.value == key]


#: Standard modules whose names can be recognised, and are never a tree's own.
_STANDARD = {"typing": typing.__all__, "dataclasses": dataclasses.__all__}


def undefined_names(source: str) -> list[tuple[str, str]]:
    """Names a module uses but nowhere binds, that are names of ``typing`` or ``dataclasses``: (module, name)."""
    tree = ast.parse(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        if isinstance(node, ast.arg):
            bound.add(node.arg)
    missing = used - bound - set(dir(builtins))
    return sorted((module, name) for module, names in _STANDARD.items() for name in missing & set(names))


def import_undefined(source: str) -> str:
    """Import what :func:`undefined_names` names, in the imports of these modules that are there already, else in new ones."""
    needed = undefined_names(source)
    for module in dict.fromkeys(module for module, _ in needed):
        source = _import_from(source, module, {name for needs, name in needed if needs == module})
    return source


def _import_from(source: str, module: str, names: set[str]) -> str:
    tree = cst.parse_module(source)
    lines = [node for node in tree.body if isinstance(node, cst.SimpleStatementLine)]
    for line in lines:
        old = line.body[0]
        if isinstance(old, cst.ImportFrom) and old.module and tree.code_for_node(old.module) == module:
            if isinstance(old.names, cst.ImportStar):
                continue
            there = {tree.code_for_node(alias.with_changes(comma=cst.MaybeSentinel.DEFAULT)) for alias in old.names}
            text = f"from {module} import {', '.join(sorted(there | names, key=str.lower))}"
            new = cst.ensure_type(cst.parse_statement(text), cst.SimpleStatementLine).body[0]
            return tree.visit(_Apply({id(old): _constant(new)})).code
    return add_import(source, module, ", ".join(sorted(names, key=str.lower)))
