"""What the benchmarks share: rows, real vocabularies, interleaved timings."""

from __future__ import annotations

import json
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}<|eot_id|>{% endgeneration %}"
    "{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
#: Marks of the same turns in templates that are the families' own; what is between them, the assistant emits.
LLAMA3_TOOLS_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
    "{% for m in messages %}{% if m.role == 'system' %}{% else %}"
    "{% if loop.index0 == first and tools %}<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions:\n\n"
    "{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}{{ m.content | trim }}<|eot_id|>"
    "{% elif m.tool_calls %}<|start_header_id|>assistant<|end_header_id|>\n\n{% generation %}"
    '{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
    "{% endfor %}<|eot_id|>{% endgeneration %}"
    "{% elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
    "{% elif m.role == 'assistant' %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% generation %}{{ m.content | trim }}<|eot_id|>{% endgeneration %}"
    "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endif %}"
    "{% endif %}{% endfor %}"
).replace("loop.index0 == first", "(loop.first or messages[loop.index0 - 1].role == 'system')")
CHATML_TOOLS_TEMPLATE = (
    "<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% if tools %}\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n<tools>"
    "{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n</tools>\n\n{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if m.role == 'system' %}{% elif m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}"
    '{{ m.content or \'\' }}{% for c in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ c.function.name }}", '
    '"arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endgeneration %}'
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)


def plain_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations of one to four rounds; what is said are paragraphs of this repository's own guides."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md")) + sorted(ROOT.glob("*.md"))]
    sentences = [s.strip() for text in texts for s in re.split(r"(?<=[.:])\s+|\n\n", text) if len(s.strip()) > 20]
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        messages = [{"role": "system", "content": " ".join(rng.sample(sentences, 2))}] if rng.random() < 0.3 else []
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": " ".join(rng.sample(sentences, rng.randint(1, 3)))})
            messages.append({"role": "assistant", "content": " ".join(rng.sample(sentences, rng.randint(2, 8)))})
        rows.append({"messages": messages})
    return rows


def tool_rows(count: int, path: Path | None = None) -> list[dict[str, Any]]:
    """Rows in OpenAI form with one call a turn (Llama 3.1 writes no more), arguments as objects; of the quickstart's data."""
    path = path or ROOT / "recipes" / "quickstart" / "data" / "train.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        row["tools"] = json.loads(row["tools"]) if isinstance(row["tools"], str) else row["tools"]
        for message in row["messages"]:
            message.setdefault("content", "")
            message["content"] = message["content"] or ""
            for call in message.get("tool_calls") or []:
                function = call["function"]
                if isinstance(function["arguments"], str):
                    function["arguments"] = json.loads(function["arguments"])
        if all(len(message.get("tool_calls") or [1]) == 1 for message in row["messages"]):
            rows.append({"messages": row["messages"], "tools": row["tools"]})
    return (rows * -(-count // len(rows)))[:count]


def byte_level_files(tiktoken_file: Path, folder: Path) -> tuple[Path, Path]:
    """``vocab.json`` and ``merges.txt`` of a tiktoken file: for each token the two that it is merged of."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    vocab, merges = TikTokenConverter(vocab_file=str(tiktoken_file)).extract_vocab_merges_from_model(str(tiktoken_file))
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = [" ".join(pair) if isinstance(pair, tuple) else pair for pair in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def interleaved(works: dict[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, tuple[float, int]]:
    """Seconds of the processor (median) and what the work counts, each in turn with the others, after a run to warm up.

    Time of the processor, not of the clock, so that other processes on the machine weigh less.
    """
    counts = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    return {name: (statistics.median(seconds[name]), counts[name]) for name in works}
