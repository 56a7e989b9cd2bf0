"""Arguments of calls against the JSON Schema of their tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchtune.data._tools import tool_parameters

#: Types that data sets write and JSON Schema writes otherwise; None: any type.
TYPE_NAMES: dict[str, str | None] = {
    "dict": "object",
    "float": "number",
    "double": "number",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "any": None,
}
#: ``int, optional`` and ``List[int]``, as schemas made from Python signatures write types.
_PYTHON_TYPE = re.compile(r"(\w+)(?:\[.*\])?(?:,\s*optional)?", re.IGNORECASE)
_KNOWN = {"object", "array", "string", "number", "integer", "boolean", "null"}
#: Keywords whose values are data, and no schemas.
_DATA = ("default", "const", "enum", "example", "examples", "required")
_TEXTS = ("description", "title", "format", "$comment")
_CACHE_SIZE = 4096


@dataclass
class _Compiled:
    """A tool's schema: its validator, or what is wrong with it; and whether it was written in a dialect."""

    validator: Any = None
    problem: str = ""
    dialect: bool = False
    names: frozenset[str] | None = field(default=None)


class ArgumentChecker:
    """Checks arguments, and remembers the schemas it has seen."""

    def __init__(self) -> None:
        self._compiled: dict[str, _Compiled] = {}

    def schema(self, tool: Mapping[str, Any]) -> _Compiled:
        """The schema of a tool's arguments, ready to check with."""
        parameters = tool_parameters(tool)
        if parameters is None:
            given = tool.get("function") if isinstance(tool.get("function"), Mapping) else tool
            bad = given.get("parameters") if isinstance(given, Mapping) else None
            problem = "" if bad is None else f"parameters must be an object, but found {type(bad).__name__}"
            return _Compiled(problem=problem)
        key = json.dumps(parameters, sort_keys=True)
        compiled = self._compiled.get(key)
        if compiled is None:
            if len(self._compiled) >= _CACHE_SIZE:
                self._compiled.clear()
            compiled = self._compiled[key] = _compile(parameters)
        return compiled

    def problems(self, arguments: Mapping[str, Any], compiled: _Compiled) -> Iterator[tuple[str, str, str]]:
        """Kind, field and text of all that is wrong with the arguments of a call."""
        if compiled.validator is None:
            return
        for error in compiled.validator.iter_errors(arguments):
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            message = error.message if len(error.message) < 240 else f"{error.message[:120]} ... {error.message[-110:]}"
            if error.validator == "required":
                owner = f" of {path[1:]}" if path else ""
                yield "missing_argument", path, f"an argument{owner} is missing: {message}"
            else:
                yield "bad_argument", path, f"{path[1:] or 'the arguments'}: {message}"


def _compile(parameters: Mapping[str, Any]) -> _Compiled:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    schema = _normal(parameters)
    dialect = schema != parameters
    kind = validator_for(schema, default=Draft202012Validator)
    if not _is_plain(schema):
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            at = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            return _Compiled(problem=f"parameters{at}: {error.message[:200]}", dialect=dialect)
        except Exception as error:  # a $schema or $ref that nobody can resolve has errors of its own kinds
            return _Compiled(problem=f"parameters cannot be used: {str(error)[:200]}", dialect=dialect)
    properties = schema.get("properties")
    names = frozenset(properties) if isinstance(properties, Mapping) and properties else None
    # An empty registry keeps a $ref from being fetched over the network.
    return _Compiled(kind(schema, registry=Registry()), dialect=dialect, names=names)


def _normal(schema: Any) -> Any:
    """A schema with the type names that JSON Schema knows, null allowed where OpenAPI's ``nullable`` says so."""
    if isinstance(schema, (list, tuple)):
        return [_normal(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    normal: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            normal[key] = {name: _normal(item) for name, item in value.items()}
        elif key == "type" and isinstance(value, str):
            python = _PYTHON_TYPE.fullmatch(value)
            plain = value if python is None or value in _KNOWN else python[1].lower()
            known = TYPE_NAMES.get(plain, plain)
            if known is not None:
                normal[key] = known
        else:
            normal[key] = value if key in _DATA else _normal(value)
    if normal.pop("nullable", None) is True:
        types = normal.get("type")
        if isinstance(types, str):
            normal["type"] = [types, "null"]
        if isinstance(normal.get("enum"), list) and None not in normal["enum"]:
            normal["enum"] = [*normal["enum"], None]
    return normal


def _is_plain(schema: Any) -> bool:
    """Whether a schema uses only the commonest keywords, rightly: then it need not be checked, which takes long."""
    if not isinstance(schema, Mapping):
        return False
    for key, value in schema.items():
        if key == "type":
            good = isinstance(value, str) and value in _KNOWN
        elif key == "properties":
            good = isinstance(value, Mapping) and all(map(_is_plain, value.values()))
        elif key == "items":
            good = _is_plain(value)
        elif key == "required":
            good = isinstance(value, list) and all(isinstance(v, str) for v in value) and len(set(value)) == len(value)
        elif key in _TEXTS:
            good = isinstance(value, str)
        elif key == "enum":
            good = isinstance(value, list) and bool(value)
        else:
            good = key == "default" or (key == "additionalProperties" and isinstance(value, bool))
        if not good:
            return False
    return True
