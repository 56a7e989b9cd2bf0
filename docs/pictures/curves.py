"""Draws the curves of the quickstart from the metrics of four runs: ``python docs/pictures/curves.py`` writes
docs/_static/quickstart_curves.svg (losses) and docs/_static/grpo_quickstart.svg (rewards).

To draw runs of your own, copy their ``metrics.jsonl`` to ``quickstart_full.jsonl`` and ``quickstart_lora.jsonl``, or to
``quickstart_grpo_7.jsonl`` and ``quickstart_grpo_8.jsonl``, in this folder.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STATIC = HERE.parent / "_static"
RUNS = {"full": ("All weights", "#0969da"), "lora": ("LoRA", "#bc4c00")}
SEEDS = {7: "#0969da", 8: "#bc4c00"}
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
                out.append(_ring(x, y, colour))
        calls = [100 * row["tool_eval/exact_match"] for row in rows if "tool_eval/exact_match" in row]
        words = f"{label}: exact calls {calls[0]:.1f} % before, {calls[-1]:.1f} % after"
        y = TOP + HEIGHT + 44 + 20 * i
        out.append(f'<line x1="{LEFT}" x2="{LEFT + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        out.append(_text(LEFT + 32, y, words, fill="#1f2328"))
    ring = TOP + HEIGHT + 44 + 20 * len(runs)
    out.append(_ring(LEFT + 12, ring - 4, "#57606a"))
    out.append(_text(LEFT + 32, ring, "validation loss"))
    return _picture(ring + 14, out)


def draw_rewards(runs: dict[int, list[dict[str, Any]]]) -> str:
    """The mean rewards of runs, as SVG: of sampled answers by step as a line, of held-out prompts as rings."""
    last = max(row["step"] for rows in runs.values() for row in rows)
    out = [_text(LEFT, 20, "Mean reward (of 2), by step", fill="#1f2328")]

    def place(row: dict[str, Any], name: str) -> tuple[float, float]:
        return LEFT + WIDTH * row["step"] / last, TOP + HEIGHT * (1 - row[name] / 2)

    for tick in (0, 0.5, 1, 1.5, 2):
        y = TOP + HEIGHT * (1 - tick / 2)
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        out.append(_text(LEFT - 8, y + 4, f"{tick:g}", anchor="end"))
    for step in range(0, last + 1, 7):
        out.append(_text(LEFT + WIDTH * step / last, TOP + HEIGHT + 18, str(step), anchor="middle"))
    for i, (seed, rows) in enumerate(runs.items()):
        colour, y = SEEDS[seed], TOP + HEIGHT + 44 + 20 * i
        line = " ".join("{:.1f},{:.1f}".format(*place(row, "reward")) for row in rows if "reward" in row)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        held_out = [row for row in rows if "eval/reward" in row]
        out += [_ring(*place(row, "eval/reward"), colour) for row in held_out]
        calls = [round(100 * row["eval/reward/ExactCallsReward"], 4) for row in held_out]
        words = f"seed {seed}: held-out exact calls {calls[0]:.1f} % before, {calls[-1]:.1f} % after"
        out.append(f'<line x1="{LEFT}" x2="{LEFT + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        out.append(_text(LEFT + 32, y, words, fill="#1f2328"))
    end = TOP + HEIGHT + 44 + 20 * len(runs)
    out += [_ring(LEFT + 12, end - 4, "#57606a"), _text(LEFT + 32, end, "held-out prompts, likeliest answers")]
    return _picture(end + 14, out)


def _ring(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#f6f8fa" stroke="{colour}" stroke-width="2"/>'


def _picture(height: int, parts: list[str]) -> str:
    width = LEFT + WIDTH + 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="system-ui, '
        f'DejaVu Sans, sans-serif">\n<rect width="100%" height="100%" rx="8" fill="#f6f8fa"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _metrics(run: str) -> list[dict[str, Any]]:
    text = (HERE / f"quickstart_{run}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {
        "quickstart_curves.svg": draw({name: _metrics(name) for name in RUNS}),
        "grpo_quickstart.svg": draw_rewards({seed: _metrics(f"grpo_{seed}") for seed in SEEDS}),
    }


def main() -> None:
    for name, text in pictures().items():
        (STATIC / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
