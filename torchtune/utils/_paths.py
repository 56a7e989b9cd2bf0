from __future__ import annotations

import os
from pathlib import Path


def inside(folder: str | Path, name: str | Path, what: str) -> Path:
    """The path of a file that others (``what``) name, which has to lie in a folder; links are not followed."""
    if not isinstance(name, (str, Path)) or not str(name):
        raise ValueError(f"{what}: expected the name of a file in {folder}, found {name!r}")
    root = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(root, name))
    if not path.startswith(os.path.join(root, "")):
        raise ValueError(f"{what}: {str(name)!r} leads out of {folder}; expected a file in it")
    return Path(folder) / name


def tokenizer_file(path: str | Path) -> str:
    """The path of a tokenizer's file, as text; where it isn't there, FileNotFoundError says what is."""
    file = Path(path)
    if file.is_file():
        return str(path)
    there = sorted(entry.name for entry in file.parent.iterdir())[:20] if file.parent.is_dir() else None
    found = f"{file.parent} is no folder" if there is None else f"{file.parent} holds {', '.join(there) or 'nothing'}"
    raise FileNotFoundError(
        f"No tokenizer file {path}: {found}. Set the paths of the config's tokenizer section to the checkpoint's files; "
        "`tune download` fetches them with the weights"
    )
