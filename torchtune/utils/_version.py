from __future__ import annotations

import re


def torch_version_ge(version: str) -> bool:
    """Whether the installed torch is at least this version; local and pre-release parts are ignored.

    Args:
        version: for instance ``"2.9.0"``.

    Raises:
        ValueError: if ``version`` does not begin with a number.
    """
    from importlib import metadata

    return _release(metadata.version("torch")) >= _release(version)


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    if match is None:
        raise ValueError(f"'{version}' is no version, expected numbers with dots such as '2.9.0'")
    numbers = [int(number) for number in match.group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
