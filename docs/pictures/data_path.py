"""Draws a row's way into the model, with what each stage makes of it: ``python docs/pictures/data_path.py`` writes docs/_static/data_path.svg."""

from __future__ import annotations

import html
import json
from pathlib import Path

import torch

from torchtune._recipe_registry import recipes_root
from torchtune.data import OpenAIToMessages, padded_collate_sft
from torchtune.data.formats import get_format
from torchtune.datasets import chat_dataset
from torchtune.models.qwen2_5 import qwen2_5_tokenizer

STATIC = Path(__file__).parents[1] / "_static"
WIDTH, COLUMNS, LINE = 440, 54, 16


def _short(text: str) -> str:
    text = text.replace("\n", "↵")
    return text if len(text) <= COLUMNS else text[: COLUMNS - 1] + "…"


def _numbers(values: list[int], width: int = 8) -> str:
    return " ".join(f"{value:>5}" for value in values[:width])


def stages() -> list[tuple[str, str, list[str]]]:
    """(what it is, what makes it, what it looks like) of each stage, for a row of the quickstart."""
    quickstart = recipes_root() / "quickstart"
    model, data = quickstart / "model", quickstart / "data" / "train.jsonl"
    with data.open(encoding="utf-8") as file:
        row = next(row for row in map(json.loads, file) if any(m.get("tool_calls") for m in row["messages"]))
    sample = OpenAIToMessages()(row)
    segments = get_format("qwen2_5").render(sample["messages"], sample["tools"])
    tokenizer = qwen2_5_tokenizer(
        str(model / "vocab.json"), str(model / "merges.txt"), str(model / "tokenizer.json"), train_on="sampled"
    )
    made = tokenizer(OpenAIToMessages()(row))
    dataset = chat_dataset(
        tokenizer,
        source="json",
        data_files=str(data),
        conversation_column="messages",
        conversation_style="openai",
        split="train[:8]",
    )
    batch = padded_collate_sft([dataset[i] for i in range(8)], padding_idx=tokenizer.pad_id)
    first = made["mask"].index(False)
    trained = "".join(segment.text for segment in segments if segment.sampled)
    labels = [token if not masked else -100 for token, masked in zip(made["tokens"], made["mask"], strict=True)][1:]
    shown = [
        _short(f"{m.role:9} {json.dumps(m.text_content, ensure_ascii=False) if m.text_content else m.tool_calls}")
        for m in sample["messages"]
    ]
    return [
        ("A row", "a line of train.jsonl", [_short(json.dumps(row["messages"][:2], ensure_ascii=False))]),
        ("Messages", "OpenAIToMessages, ShareGPTToMessages, … then validate_messages", shown[:6]),
        (
            "Segments",
            f"get_format('qwen2_5').render: {len(segments)} pieces, emitted by the model or not",
            [_short("emitted: " + trained)],
        ),
        (
            "Tokens and mask",
            f"the tokenizer, train_on: sampled — {made['mask'].count(False)} of {len(made['tokens'])} tokens are trained",
            [
                "tokens  …" + _numbers(made["tokens"][first - 3 :]),
                "trained …" + _numbers([int(not m) for m in made["mask"][first - 3 :]]),
            ],
        ),
        (
            "Labels",
            "the dataset: of each position the next token, or -100",
            ["labels  …" + _numbers(labels[first - 3 :])],
        ),
        (
            "A batch",
            "padded_collate_sft, or a pack: see packing",
            [
                f"tokens {list(batch['tokens'].shape)}, labels {list(batch['labels'].shape)}, trained {int(torch.sum(batch['labels'] != -100))}"
            ],
        ),
    ]


def draw(boxes: list[tuple[str, str, list[str]]]) -> str:
    """The picture, as SVG: boxes from top to bottom, with arrows between."""
    out, y = [], 10
    for i, (title, how, lines) in enumerate(boxes):
        height = 62 + LINE * len(lines)
        if i:
            out.append(
                f'<path d="M{WIDTH // 2} {y - 16} v12 m-5 -6 l5 6 l5 -6" stroke="#57606a" fill="none" stroke-width="2"/>'
            )
        out.append(
            f'<rect x="10" y="{y}" width="{WIDTH - 20}" height="{height}" rx="6" fill="#ffffff" stroke="#d0d7de"/>'
        )
        out.append(
            f'<text x="22" y="{y + 20}" fill="#1f2328" font-size="14" font-weight="600">{html.escape(title)}</text>'
        )
        out.append(f'<text x="22" y="{y + 37}" fill="#57606a" font-size="11.5">{html.escape(how)}</text>')
        for k, line in enumerate(lines):
            out.append(
                f'<text x="22" y="{y + 58 + LINE * k}" fill="#0a3069" font-size="12" font-family="ui-monospace, Menlo, Consolas, '
                f'DejaVu Sans Mono, monospace" xml:space="preserve">{html.escape(line)}</text>'
            )
        y += height + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y - 10}" viewBox="0 0 {WIDTH} {y - 10}" font-family="system-ui, DejaVu Sans, '
        f'sans-serif">\n<rect width="100%" height="100%" rx="8" fill="#f6f8fa"/>\n' + "\n".join(out) + "\n</svg>\n"
    )


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {"data_path.svg": draw(stages())}


def main() -> None:
    for name, text in pictures().items():
        (STATIC / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
