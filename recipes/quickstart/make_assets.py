"""Makes what the quickstart ships: its data, its tokenizer, and a tiny base model that reads and copies but knows no tool call.

    python recipes/quickstart/make_assets.py --steps 0         # the data
    python recipes/quickstart/make_assets.py --steps 4000      # all of it, about ten minutes on two cores

The tokenizer is a byte-level BPE with Qwen 2.5's text splitting and control tokens. The base model is trained on
``plain_conversations`` only: chats without tools or calls. It knows the two tags as brackets around JSON. The tokenizer and
the model that ship were made when a currency converter stood in the calculator's place: they know its words in pieces only.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from conversations import SCENARIOS, TOOLS, conversations, plain_conversations
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from torchtune.data import OpenAIToMessages
from torchtune.data.formats import get_format
from torchtune.models.qwen2 import qwen2, qwen2_tune_to_hf
from torchtune.models.qwen2._tokenizer import PRETOKENIZE_REGEX
from torchtune.models.qwen2_5 import qwen2_5_tokenizer
from torchtune.modules.loss import LinearCrossEntropyLoss

HERE = Path(__file__).parent
TRAIN_ROWS, TEST_ROWS = 3200, 200
ORDERS = {"train": 224, "test": 80}
VOCAB_SIZE = 1024
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 128, "intermediate_dim": 384,
    "max_seq_len": 1024, "rope_base": 10000.0, "norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "torch_dtype": "bfloat16",
}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_data(folder: Path) -> None:
    """Writes the two splits, where no two test rows ask the same, and the prompts about orders: refunds, then sums."""
    write_rows(folder / "train.jsonl", islice(conversations(0, "train", most_tools=3), TRAIN_ROWS))
    seen: dict[str, dict[str, Any]] = {}
    for row in conversations(0, "test", most_tools=3):
        seen.setdefault(row["messages"][0]["content"], row)
        if len(seen) == TEST_ROWS:
            break
    write_rows(folder / "test.jsonl", seen.values())
    for split, count in ORDERS.items():
        rows: list[dict[str, Any]] = []
        for seed, task in enumerate(("_refund", "_cost"), start=5):
            only = [scenario.__name__ == task for scenario, _ in SCENARIOS]
            rows += islice(conversations(seed, split, only, most_tools=2), count // 2)
        write_rows(folder / f"orders_{split}.jsonl", rows)
    (folder / "tools.json").write_text(json.dumps([TOOLS["get_weather"], TOOLS["set_timer"]], indent=1) + "\n")


def text_of(row: dict[str, Any]) -> str:
    sample = OpenAIToMessages()(row)
    return "".join(s.text for s in get_format("qwen2_5").render(sample["messages"], sample.get("tools")))


def make_tokenizer(folder: Path) -> None:
    """Trains the BPE and writes it as Hugging Face does: tokenizer.json, vocab.json, merges.txt, tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text_of(row) for row in islice(conversations(1, "train"), 3000)), trainer)
    tokenizer.add_tokens([AddedToken(t, special=t.startswith("<|"), normalized=False) for t in CONTROL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(t)): {"content": t, "special": t.startswith("<|"), "normalized": False,
                                            "lstrip": False, "rstrip": False, "single_word": False}
            for t in CONTROL_TOKENS
        },
        "chat_template": (HERE / "chat_template.jinja").read_text(),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def encode(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Tokens and labels of a plain row; the tags in an assistant's text are control tokens, as a call's would be."""
    tokens: list[int] = []
    labels: list[int] = []
    control = {t: tokenizer.special_tokens[t] for t in CONTROL_TOKENS}
    for segment in get_format("qwen2_5").render(OpenAIToMessages()(row)["messages"]):
        pieces = re.split(r"(</?tool_call>)", segment.text) if segment.sampled else [segment.text]
        for piece in filter(None, pieces):
            known = segment.special or (segment.sampled and piece in control)
            ids = [control[piece]] if known else tokenizer.encode(piece, add_bos=False, add_eos=False)
            tokens += ids
            labels += ids if segment.sampled else [-100] * len(ids)
    return tokens, labels[1:] + [-100]


def batches(tokenizer: Any, rows: Iterator[dict[str, Any]], size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Padded batches of tokens and labels ``[b, s]``, of rows of similar length; only the assistant's text is a label."""
    while True:
        samples = sorted((encode(tokenizer, row) for row in islice(rows, size * 8)), key=lambda pair: len(pair[0]))
        groups = [samples[i : i + size] for i in range(0, len(samples), size)]
        random.shuffle(groups)
        for group in groups:
            width = max(len(tokens) for tokens, _ in group)
            yield (
                torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in group]),
                torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in group]),
            )


def make_model(folder: Path, steps: int, lr: float = 3e-3, warmup: int = 50) -> None:
    """Trains the base model on plain conversations and writes it in bf16."""
    tokenizer = qwen2_5_tokenizer(
        path=str(folder / "vocab.json"),
        merges_file=str(folder / "merges.txt"),
        special_tokens_path=str(folder / "tokenizer.json"),
        chat_format="official",
        train_on="sampled",
    )
    torch.manual_seed(0)
    random.seed(0)
    model = qwen2(**SIZES)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    loss_fn = LinearCrossEntropyLoss()
    loss_fn.set_model_output(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    for step, (tokens, labels) in enumerate(islice(batches(tokenizer, plain_conversations(0), 16), steps)):
        factor = min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = lr * factor
        loss = loss_fn(model(tokens), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    weights = qwen2_tune_to_hf(
        model.state_dict(), num_heads=4, num_kv_heads=2, dim=128, head_dim=32, tie_word_embeddings=True
    )
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    end = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **end}, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({**end, "do_sample": False}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write data/ and model/ into")
    parser.add_argument(
        "--steps", type=int, default=4000, help="training steps of the base model; 0 makes the data alone"
    )
    args = parser.parse_args()
    make_data(args.out / "data")
    if args.steps:
        make_tokenizer(args.out / "model")
        make_model(args.out / "model", args.steps)


if __name__ == "__main__":
    main()
