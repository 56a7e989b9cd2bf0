"""Runs the parity tests and writes what they measured to docs/parity.md: ``python tools/parity_table.py``.

A row is a family of tests/parity/test_dense_decoders.py; a number is the largest absolute difference that a test's
comparisons saw. Exits with 1, and writes nothing, if a test fails.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
FILES = ["tests/parity", "tests/training/test_hf_parity.py"]
DENSE = "tests/parity/test_dense_decoders.py"
COLUMNS = {
    "logits": "test_logits_equal_transformers",
    "gradients": "test_gradients_equal_transformers",
    "LoRA (peft)": "test_adapters_equal_peft lora",
    "DoRA (peft)": "test_adapters_equal_peft dora",
    "greedy": "test_greedy_generation_equals_transformers_with_and_without_cache",
    "left padded": "test_left_padded_batches_generate_as_transformers plain",
    "with cache": "test_left_padded_batches_generate_as_transformers cached",
    "weights": "test_weights_survive_a_round_trip",
}
HEAD = """# Parity

Each family stands beside an independent implementation: tiny random weights in fp32, on the CPU, the same in both. The
numbers are the largest absolute differences that the tests measured; the tests demand 1e-5. They were written by
`python tools/parity_table.py` (Python {python}, torch {torch}, transformers {transformers}, peft {peft}).

## Text models

`logits`, `gradients`: against `transformers`. `LoRA`, `DoRA`: logits with the exported adapter, against `peft`. `greedy`:
64 tokens, with and without a KV cache, and `left padded`, `with cache`: 64 tokens of a batch of three prompts of different
length; all are equal token for token. `weights`: Hugging Face's keys and tensors, there and back, equal to the last bit.

"""
REST = """
## Other comparisons

Encoders (CLIP's image encoder on tiles of 16 and 20 pixels), models with images, reward models, checkpoints as written by a
run. The FLUX autoencoder's test runs where `diffusers` is installed (0.42.1 here); others skip it.

| test | largest difference |
| --- | --- |
"""


class Recorder:
    """Keeps the largest difference of each test's comparisons.

    A plugin of pytest.
    """

    def __init__(self) -> None:
        self.largest: dict[str, float | None] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        compare = torch.testing.assert_close
        seen: list[float] = []

        def recorded(actual: Any, expected: Any, **options: Any) -> None:
            compare(actual, expected, **options)
            if isinstance(actual, torch.Tensor) and actual.numel():
                seen.append((actual.double() - expected.double()).abs().max().item())

        torch.testing.assert_close = recorded  # type: ignore[assignment]
        try:
            result = yield
        finally:
            torch.testing.assert_close = compare
        self.largest[item.nodeid] = max(seen) if seen else None
        return result


def shown(largest: dict[str, float | None], key: str) -> str:
    """A cell: a difference, or that all was equal."""
    if key not in largest:
        return "-"
    value = largest[key]
    return "equal" if value is None else f"{value:.1e}" if value else "0"


def page(largest: dict[str, float | None]) -> str:
    """The page of these measurements."""
    dense: dict[str, dict[str, float | None]] = {}
    others: dict[str, float | None] = {}
    for node, value in largest.items():
        file, _, test = node.partition("::")
        name, _, parameters = test.partition("[")
        words = parameters[:-1].split("-")
        column = " ".join([name, *(word for word in words if word in ("lora", "dora", "plain", "cached"))])
        family = next((word for word in words if f"{name} {word}" not in COLUMNS.values()), "")
        if file == DENSE and column in COLUMNS.values() and family:
            dense.setdefault(family, {})[column] = value
        elif not file.endswith("test_token_ids.py"):
            text = re.sub(r"^test_", "", name).replace("_", " ") + (f" ({', '.join(words)})" if parameters else "")
            others[f"{Path(file).stem.removeprefix('test_')}: {text}"] = value
    lines = [f"| family | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    lines += [
        f"| {family} | " + " | ".join(shown(row, column) for column in COLUMNS.values()) + " |"
        for family, row in dense.items()
    ]
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    head = HEAD.format(python=platform.python_version(), **versions)
    rest = "".join(f"| {name} | {shown(others, name)} |\n" for name in others)
    return head + "\n".join(lines) + "\n" + REST + rest


def main() -> int:
    """Run the tests, write the page."""
    recorder = Recorder()
    status = pytest.main([*(str(ROOT / file) for file in FILES), "-q", "--rootdir", str(ROOT)], plugins=[recorder])
    if status:
        return 1
    PAGE.write_text(page(recorder.largest), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
