"""Tokens and keys, which never reach a log or a saved config."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"
_NAMES = re.compile(
    r"(^|_)(token|api_?key|access_?key|private_?key|secret(_?key)?|password|passwd|passphrase|credentials?)$",
    re.IGNORECASE,
)
# Keys that end in "token" and name one of a vocabulary.
_VOCABULARY = re.compile(
    r"(bos|eos|pad|unk|sep|cls|mask|image|video|audio|stop|start|end|bot|eot|eom|special|new|next)_token$",
    re.IGNORECASE,
)
# What services' tokens look like, and a password in a URL.
_VALUES = re.compile(
    r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|xox[abprs]-[\w-]{10,}|AKIA\w{16}|Bearer\s+[\w.~+/-]{16,}=*)"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
_REFERENCE = re.compile(r"\$\{[^,{}]*\}")
_SHORTEST = 8


def is_secret(name: str) -> bool:
    """Whether a key, or a variable of the environment, says that its value is a secret."""
    name = name.replace("-", "_")
    return bool(_NAMES.search(name)) and not _VOCABULARY.search(name)


def without_secrets(value: Any) -> Any:
    """A config's plain values without secrets.

    Hidden are texts whose key says that they are secret, values of such variables of the environment wherever they stand, and
    what looks like a service's token. References such as ``${oc.env:HF_TOKEN}`` stay.
    """
    known = {text for name, text in os.environ.items() if is_secret(name) and len(text) >= _SHORTEST}
    return _hide(value, sorted(known, key=len, reverse=True))


def _hide(value: Any, known: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if is_secret(str(key)) and _is_shown(inner) else _hide(inner, known)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_hide(inner, known) for inner in value]
    if not isinstance(value, str):
        return value
    for text in known:
        value = value.replace(text, HIDDEN)
    return _VALUES.sub(HIDDEN, value)


def _is_shown(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not _REFERENCE.fullmatch(value)
