from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known word closest to this one, or nothing; to end an error message with."""
    public = [name for name in map(str, known) if not name.startswith("_")]
    close = difflib.get_close_matches(word, public, n=1, cutoff=0.7)
    return f" Did you mean '{close[0]}'?" if close else ""
