"""Draws how rows of the quickstart lie in batches and packs: ``python docs/pictures/packing.py`` writes docs/_static/packing.svg."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torchtune._recipe_registry import recipes_root
from torchtune.datasets import chat_dataset
from torchtune.datasets._packed import best_fit
from torchtune.models.qwen2_5 import qwen2_5_tokenizer

STATIC = Path(__file__).parents[1] / "_static"
ROWS, SIZE, BATCH = 32, 1152, 8
LEFT, WIDTH, BAR = 12, 496, 9
COLOURS = ("#79b8ff", "#85e89d", "#ffd33d", "#f9826c", "#b392f0", "#4ec9b0", "#ffab70")


def lengths() -> list[int]:
    """Tokens of the first rows of the quickstart's training data."""
    model = recipes_root() / "quickstart" / "model"
    tokenizer = qwen2_5_tokenizer(
        str(model / "vocab.json"), str(model / "merges.txt"), str(model / "tokenizer.json"), max_seq_len=SIZE
    )
    data = chat_dataset(
        tokenizer,
        source="json",
        data_files=str(recipes_root() / "quickstart" / "data" / "train.jsonl"),
        conversation_column="messages",
        conversation_style="openai",
        split=f"train[:{ROWS}]",
    )
    return [len(data[i]["tokens"]) for i in range(len(data))]


def layouts(sizes: list[int]) -> dict[str, tuple[list[list[int]], list[int]]]:
    """Title -> (rows of each line of the batch or pack, length that line is padded to)."""
    single = [[i] for i in range(len(sizes))]
    longest = [max(sizes[i - i % BATCH : i - i % BATCH + BATCH]) for i in range(len(sizes))]
    ordered: list[list[int]] = [[]]
    for i, size in enumerate(sizes):
        if sum(sizes[k] for k in ordered[-1]) + size > SIZE:
            ordered.append([])
        ordered[-1].append(i)
    members, bounds = best_fit(np.array(sizes), SIZE)
    fitted = [part.tolist() for part in np.split(members, bounds[1:-1])]
    return {
        f"packed: false, batch_size: {BATCH}": (single, longest),
        "packed: true, packing: in_order": (ordered, [SIZE] * len(ordered)),
        "packed: true, packing: best_fit": (fitted, [SIZE] * len(fitted)),
    }


def draw(sizes: list[int]) -> str:
    """The picture, as SVG: a bar is a sequence, a colour a row, grey is padding."""
    out, y = [], 24.0
    for title, (lines, padded) in layouts(sizes).items():
        share = 100 * sum(sizes) / sum(padded)
        words = f"{title}: {len(lines)} sequences, {share:.0f} % full"
        out.append(f'<text x="{LEFT}" y="{y:.1f}" fill="#1f2328" font-size="15">{words}</text>')
        y += 8
        for members, length in zip(lines, padded, strict=True):
            x = float(LEFT)
            out.append(
                f'<rect x="{x}" y="{y:.1f}" width="{WIDTH * length / SIZE:.1f}" height="{BAR - 2}" fill="#d0d7de"/>'
            )
            for row in members:
                width = WIDTH * sizes[row] / SIZE
                colour = COLOURS[row % len(COLOURS)]
                out.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 1, 1):.1f}" height="{BAR - 2}" fill="{colour}"/>'
                )
                x += width
            y += BAR
        y += 26
    size = 2 * LEFT + WIDTH, round(y - 12)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}" font-family="system-ui, '
        f'DejaVu Sans, sans-serif">\n<rect width="100%" height="100%" rx="8" fill="#f6f8fa"/>\n'
        + "\n".join(out)
        + "\n</svg>\n"
    )


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {"packing.svg": draw(lengths())}


def main() -> None:
    for name, text in pictures().items():
        (STATIC / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
