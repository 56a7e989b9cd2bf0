"""Chat rows to tokens and mask, beside transformers on the same rows, and the bare encoder as the floor.

python benchmarks/tokenization.py --vocab FOLDER [--templates FOLDER] [--tool-rows FILE] [--rows N]

The first folder holds llama3.tokenizer.model and qwen.tiktoken. Ours starts from the row as it stands in a file: message
transform, then tokenizer. transformers starts from the same dicts, with a template that marks the assistant's turns. For tool
rows that is the family's own, where the second folder holds llama3_1.jinja and qwen2_5.jinja (or qwen2_5_training.jinja: with
marks; without them transformers makes a mask of zeros, which is less work), such as TRL's ``chat_templates``; else a short one
of this folder. The floor encodes all texts of the conversations, control tokens and tools included, in one call each, and makes
no mask.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import (
    CHATML_TEMPLATE,
    CHATML_TOOLS_TEMPLATE,
    LLAMA3_TEMPLATE,
    LLAMA3_TOOLS_TEMPLATE,
    byte_level_files,
    interleaved,
    plain_rows,
    tool_rows,
)

from torchtune.data import OpenAIToMessages
from torchtune.data.formats import _write


def ours(tokenizer: Any, rows: list[dict[str, Any]]) -> Callable[[], int]:
    transform = OpenAIToMessages()

    def work() -> int:
        # What is remembered from one pass over the rows must not serve the next.
        for remembered in (tokenizer._runs, tokenizer._headers, tokenizer.format._literals, _write._schemas):
            remembered.clear()
        return sum(len(tokenizer(dict(transform(row)))["tokens"]) for row in rows)

    return work


def theirs(fast: Any, template: str, rows: list[dict[str, Any]]) -> Callable[[], int]:
    def work() -> int:
        total = 0
        for row in rows:
            found = fast.apply_chat_template(
                row["messages"], tools=row.get("tools"), chat_template=template, tokenize=True, return_dict=True,
                return_assistant_tokens_mask=True,
            )  # fmt: skip
            total += len(found["input_ids"])
        return total

    return work


def floor(tokenizer: Any, encode: Callable[[str], list[int]], rows: list[dict[str, Any]]) -> Callable[[], int]:
    transform = OpenAIToMessages()
    texts = []
    for row in rows:
        sample = transform(row)
        texts.append("".join(s.text for s in tokenizer.format.render(sample["messages"], sample.get("tools"))))

    def work() -> int:
        return sum(len(encode(text)) for text in texts)

    return work


def llama3(folder: Path, scratch: Path, **options: Any) -> tuple[Any, Any, Callable[[str], list[int]]]:
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    from torchtune.models.llama3 import Llama3Tokenizer
    from torchtune.models.llama3._tokenizer import CL100K_PATTERN

    path = str(folder / "llama3.tokenizer.model")
    tokenizer = Llama3Tokenizer(path, **options)
    special = sorted(tokenizer.special_tokens, key=lambda text: tokenizer.special_tokens[text])
    rust = TikTokenConverter(vocab_file=path, pattern=CL100K_PATTERN, extra_special_tokens=special).converted()
    fast = PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<|begin_of_text|>")
    bare = tokenizer.tt_model.tt_model
    return tokenizer, fast, lambda text: bare.encode(text, allowed_special="all")


def qwen2_5(folder: Path, scratch: Path, **options: Any) -> tuple[Any, Any, Callable[[str], list[int]]]:
    from tiktoken import Encoding
    from tokenizers import AddedToken, Tokenizer, decoders
    from transformers import PreTrainedTokenizerFast

    from torchtune.models.qwen2._tokenizer import PRETOKENIZE_REGEX
    from torchtune.models.qwen2_5 import Qwen2_5Tokenizer

    tokenizer = Qwen2_5Tokenizer(*map(str, byte_level_files(folder / "qwen.tiktoken", scratch)), **options)
    rust = Tokenizer.from_str(tokenizer._bpe.rust.to_str())
    rust.decoder = decoders.ByteLevel()
    ordered = sorted(tokenizer.special_tokens, key=lambda text: tokenizer.special_tokens[text])
    rust.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ordered])
    fast = PreTrainedTokenizerFast(tokenizer_object=rust)
    bare = Encoding(
        "qwen",
        pat_str=PRETOKENIZE_REGEX,
        mergeable_ranks=tokenizer._bpe._core._mergeable_ranks,
        special_tokens=tokenizer.special_tokens,
    )
    return tokenizer, fast, lambda text: bare.encode(text, allowed_special="all")


def official(folder: Path | None, *names: str) -> str | None:
    """The first of some templates that a folder has."""
    found = [folder / name for name in names if (folder / name).is_file()] if folder is not None else []
    return found[0].read_text(encoding="utf-8") if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=Path, required=True, help="folder with the vocabularies")
    parser.add_argument("--templates", type=Path, help="folder with the families' own chat templates")
    parser.add_argument("--tool-rows", type=Path, help="JSONL in OpenAI form, in place of the quickstart's rows")
    parser.add_argument("--rows", type=int, default=1000)
    args = parser.parse_args()
    plain, tools = plain_rows(args.rows), tool_rows(args.rows, args.tool_rows)
    llama3_tools = official(args.templates, "llama3_1.jinja") or LLAMA3_TOOLS_TEMPLATE
    qwen2_5_tools = official(args.templates, "qwen2_5_training.jinja", "qwen2_5.jinja") or CHATML_TOOLS_TEMPLATE
    kinds = [
        ("plain, Llama 3", llama3, plain, LLAMA3_TEMPLATE),
        ("plain, Qwen 2.5", qwen2_5, plain, CHATML_TEMPLATE),
        ("tools, Llama 3.1", llama3, tools, llama3_tools),
        ("tools, Qwen 2.5", qwen2_5, tools, qwen2_5_tools),
    ]
    print("| rows | ours, M tokens/s | transformers | bare encoder | ours : transformers | ours : bare encoder |")
    print("|---|---|---|---|---|---|")
    for name, build, rows, template in kinds:
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer, fast, encode = build(args.vocab, Path(scratch))
            found = interleaved(
                {
                    "ours": ours(tokenizer, rows),
                    "theirs": theirs(fast, template, rows),
                    "floor": floor(tokenizer, encode, rows),
                }
            )
        speeds = [count / seconds / 1e6 for seconds, count in found.values()]
        print(
            f"| {name} | {speeds[0]:.2f} | {speeds[1]:.2f} | {speeds[2]:.2f} "
            f"| {speeds[0] / speeds[1]:.1f} | {speeds[0] / speeds[2]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
