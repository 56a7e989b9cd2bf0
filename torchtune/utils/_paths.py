from __future__ import annotations

import os
from pathlib import Path


def inside(folder: str | Path, name: str | Path, what: str) -> Path:
    """The path of a file that others name, which has to lie in a folder; links are not followed.

    Args:
        folder: where it has to lie.
        name: its path from there.
        what: what names it, for the error.

    Raises:
        ValueError: if the name is no text, or leads out of the folder.
    """
    if not isinstance(name, (str, Path)) or not str(name):
        raise ValueError(f"{what}: expected the name of a file in {folder}, found {name!r}")
    root = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(root, name))
    if not path.startswith(os.path.join(root, "")):
        raise ValueError(f"{what}: {str(name)!r} leads out of {folder}; expected a file in it")
    return Path(folder) / name
