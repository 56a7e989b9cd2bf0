"""Draws the loss curves of the quickstart from the metrics of two runs: ``python docs/pictures/curves.py`` writes docs/_static/quickstart_curves.svg.

To draw runs of your own, copy their ``metrics.jsonl`` to ``quickstart_full.jsonl`` and ``quickstart_lora.jsonl`` in this folder.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STATIC = HERE.parent / "_static"
RUNS = {"full": ("All weights", "#0969da"), "lora": ("LoRA", "#bc4c00")}
LEFT, TOP, WIDTH, HEIGHT = 48, 44, 450, 230
HIGH, LOW = 10.0, 0.003


def _y(loss: float) -> float:
    share = math.log(max(loss, LOW) / LOW) / math.log(HIGH / LOW)
    return TOP + HEIGHT * (1 - share)


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#57606a", size: int = 14) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{text}</text>'


def draw(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The curves of runs, as SVG: loss of each logged step as a line, validation loss as rings, calls in the legend."""
    last = max(row["step"] for rows in runs.values() for row in rows)
    out = [_text(LEFT, 20, "Loss per trained token (logarithmic), by optimizer step", fill="#1f2328", size=14)]
    for tick in (10, 1, 0.1, 0.01):
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{_y(tick):.1f}" y2="{_y(tick):.1f}" stroke="#d0d7de"/>')
        out.append(_text(LEFT - 8, _y(tick) + 4, f"{tick:g}", anchor="end"))
    for step in range(0, last + 1, 200):
        out.append(_text(LEFT + WIDTH * step / last, TOP + HEIGHT + 18, str(step), anchor="middle"))
    for i, (name, rows) in enumerate(runs.items()):
        label, colour = RUNS[name]
        points = [(LEFT + WIDTH * row["step"] / last, _y(row["loss"])) for row in rows if "loss" in row]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for row in rows:
            if "val_loss" in row:
                x, y = LEFT + WIDTH * row["step"] / last, _y(row["val_loss"])
                out.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#f6f8fa" stroke="{colour}" stroke-width="2"/>'
                )
        calls = [100 * row["tool_eval/exact_match"] for row in rows if "tool_eval/exact_match" in row]
        words = f"{label}: exact calls {calls[0]:.1f} % before, {calls[-1]:.1f} % after"
        y = TOP + HEIGHT + 44 + 20 * i
        out.append(f'<line x1="{LEFT}" x2="{LEFT + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        out.append(_text(LEFT + 32, y, words, fill="#1f2328"))
    ring = TOP + HEIGHT + 44 + 20 * len(runs)
    out.append(f'<circle cx="{LEFT + 12}" cy="{ring - 4}" r="5" fill="#f6f8fa" stroke="#57606a" stroke-width="2"/>')
    out.append(_text(LEFT + 32, ring, "validation loss"))
    width, height = LEFT + WIDTH + 22, ring + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="system-ui, '
        f'DejaVu Sans, sans-serif">\n<rect width="100%" height="100%" rx="8" fill="#f6f8fa"/>\n'
        + "\n".join(out)
        + "\n</svg>\n"
    )


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    runs = {
        name: [
            json.loads(line) for line in (HERE / f"quickstart_{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for name in RUNS
    }
    return {"quickstart_curves.svg": draw(runs)}


def main() -> None:
    for name, text in pictures().items():
        (STATIC / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
