"""What fuzzing found stays mended, and a short search finds nothing new. The long one is ``python -m tests.fuzz.fuzz``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Feed

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_fuzzing_found_stays_mended(path: Path) -> None:
    TARGETS[path.stem.partition("-")[0]].run(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_lead_to_an_error_without_a_name(target: str) -> None:
    make, run = TARGETS[target]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300))
    def search(data: bytes) -> None:
        run(make(Feed(data)))

    search()
