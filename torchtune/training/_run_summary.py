"""What is left of a run: its metrics as JSON lines, its loss curve as a picture, and a page with both and the config."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

METRICS_FILE, CURVE_FILE, REWARD_FILE, PAGE_FILE = "metrics.jsonl", "loss_curve.png", "reward_curve.png", "summary.html"
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 300, 64, 32
_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1f2937}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #d1d5db;padding:.25rem .6rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}pre{background:#f3f4f6;padding:1rem;overflow-x:auto}svg{width:100%}"
)

Curve = list[tuple[float, float]]
# ("line", points, colour) or ("text", (x, y, anchor), words)
Shape = tuple[str, Any, str]


class RunSummary:
    """Collects what a run logs, and writes it down at the end."""

    def __init__(self, folder: Path, config: str, resumed: bool = False) -> None:
        self.folder, self.config = folder, config
        self.started = time.time()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_FILE
        cut = resumed and path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("a" if resumed else "w", encoding="utf-8")
        self._file.write("\n" if cut else "")

    def add(self, values: Mapping[str, float | int], step: int) -> None:
        """Notes the values of a step."""
        self._file.write(json.dumps({"step": step, "seconds": round(time.time() - self.started, 3), **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Writes the page, and the pictures where Pillow is installed: the loss, and where there are rewards, these."""
        self._file.close()
        curves = read_curves(self.folder / METRICS_FILE)
        if not curves:
            return
        (self.folder / PAGE_FILE).write_text(self._page(curves), encoding="utf-8")
        for file, names in ((CURVE_FILE, ("loss", "val_loss")), (REWARD_FILE, _reward_names(curves))):
            if chosen := {name: curves[name] for name in names if name in curves}:
                write_png(self.folder / file, chart(chosen))

    def _page(self, curves: Mapping[str, Curve]) -> str:
        title = escape(self.folder.name or "run")
        parts = [f"<h1>{title}</h1>", f"<p>{escape(self._facts(curves))}</p>"]
        groups = {"Loss": ("loss", "val_loss", "class_loss", "kd_loss"), "Learning rate": ("lr",)}
        groups["Reward"] = _reward_names(curves)
        groups["Tool calls"] = tuple(name for name in curves if name.startswith("tool_eval/"))[: len(_COLOURS)]
        for heading, names in groups.items():
            chosen = {name: curves[name] for name in names if name in curves}
            if chosen:
                parts += [f"<h2>{heading}</h2>", svg(chart(chosen))]
        parts += ["<h2>Metrics</h2>", _table(curves), "<h2>Config</h2>", f"<pre>{escape(self.config)}</pre>"]
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        return head + "\n".join(parts) + "</html>\n"

    def _facts(self, curves: Mapping[str, Curve]) -> str:
        import torch

        steps = int(max(x for curve in curves.values() for x, _ in curve))
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
        ended, seconds = time.strftime("%Y-%m-%d %H:%M"), time.time() - self.started
        return f"{steps} steps, ended {ended} after {seconds:.0f} s; torch {torch.__version__}, {device}"


def _reward_names(curves: Mapping[str, Curve]) -> tuple[str, ...]:
    """The rewards among a run's metrics, no more than there are colours."""
    first = [name for name in ("reward", "eval/reward") if name in curves]
    return (*first, *(name for name in curves if name.startswith("reward/")))[: len(_COLOURS)]


def read_curves(path: Path) -> dict[str, Curve]:
    """The curve of each metric in a file of JSON lines; of a step that was run twice the last value counts."""
    curves: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a full disk, or a machine that went down
            continue
        step = row.pop("step")
        row.pop("seconds", None)
        for name, value in row.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                curves.setdefault(name, {})[step] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}  # type: ignore[misc]


def chart(curves: Mapping[str, Curve]) -> list[Shape]:
    """Lines and texts of a chart, in pixels from the top left."""
    points = [point for curve in curves.values() for point in curve]
    across, up = _ticks((x for x, _ in points), least=1), _ticks(y for _, y in points)
    shapes, top = _legend(curves)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[-1] - across[0]) * (_WIDTH - _LEFT - 16)
        above = (y - up[0]) / (up[-1] - up[0]) * (_HEIGHT - _BOTTOM - top)
        return round(_LEFT + right, 1), round(_HEIGHT - _BOTTOM - above, 1)

    for y in up:
        shapes.append(("line", [place(across[0], y), place(across[-1], y)], "#e5e7eb"))
        shapes.append(("text", (_LEFT - 6, place(across[0], y)[1] + 4, "end"), f"{y:.6g}"))
    shapes += [("text", (place(x, up[0])[0], _HEIGHT - 12, "middle"), f"{x:.6g}") for x in across]
    for colour, curve in zip(cycle(_COLOURS), curves.values(), strict=False):
        drawn = [place(*point) for point in curve]
        if len(drawn) > 1:
            shapes.append(("line", drawn, colour))
        if len(drawn) < 4:  # values that stand far apart, or alone
            shapes += [("line", [(x - 3, y), (x, y + 3), (x + 3, y), (x, y - 3), (x - 3, y)], colour) for x, y in drawn]
    return shapes


def _legend(names: Iterable[str]) -> tuple[list[Shape], int]:
    """The curves' names beside their colours, in as many rows as they need; and the pixels above the curves."""
    shapes: list[Shape] = []
    x, y = _LEFT, 12
    for colour, name in zip(cycle(_COLOURS), names, strict=False):
        width = 40 + 7 * len(name)
        if x > _LEFT and x + width > _WIDTH:
            x, y = _LEFT, y + 16
        shapes += [("line", [(x, y), (x + 18, y)], colour), ("text", (x + 24, y + 4, "start"), name)]
        x += width
    return shapes, y + 12


def _ticks(values: Iterable[float], least: float = 0.0) -> list[float]:
    """Round numbers, two to six of them at least ``least`` apart, from below the values to above them."""
    found = list(values)
    low, high = min(found), max(found)
    if low == high:
        low, high = low - 0.5, high + 0.5
    apart = max((high - low) / 4, least)
    power = 10 ** math.floor(math.log10(apart))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= apart * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def svg(shapes: Iterable[Shape]) -> str:
    """A chart as SVG."""
    parts = []
    for kind, where, what in shapes:
        if kind == "line":
            path = " ".join(f"{x},{y}" for x, y in where)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{what}" stroke-width="1.5"/>')
        else:
            x, y, anchor = where
            parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="11">{escape(what)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def write_png(path: Path, shapes: Iterable[Shape]) -> bool:
    """A chart as a picture; False where Pillow is not installed."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        return False
    scale = 2
    image = Image.new("RGB", (_WIDTH * scale, _HEIGHT * scale), "white")
    draw = ImageDraw.Draw(image)
    anchors = {"end": "rs", "middle": "ms", "start": "ls"}
    for kind, where, what in shapes:
        if kind == "line":
            draw.line([(x * scale, y * scale) for x, y in where], fill=what, width=3)
        else:
            x, y, anchor = where
            draw.text((x * scale, y * scale), what, fill="#374151", anchor=anchors[anchor], font_size=11 * scale)
    image.save(path)
    return True


def _table(curves: Mapping[str, Curve]) -> str:
    """First, last, least, greatest and middle value of each metric."""
    head = ("metric", "first", "last", "least", "greatest", "median", "values")
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for name, curve in curves.items():
        values = [value for _, value in curve]
        shown = (values[0], values[-1], min(values), max(values), statistics.median(values))
        cells = "".join(f"<td>{value:.6g}</td>" for value in shown)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}<td>{len(values)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"
