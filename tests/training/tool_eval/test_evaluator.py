"""Tests of the evaluator on a tiny model, untrained, trained, and sharded over two processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy

from torchtune.data import Message, ToolCall
from torchtune.data.formats._base import ParsedMessage, UnparsedCall
from torchtune.models.llama3 import llama3
from torchtune.training.tool_eval import ExpectedCall, ToolCallEvaluator, ToolCase, report

STOP = 256
CITIES = ("Oslo", "Rome", "Bern")
TOOL = {"type": "function", "function": {"name": "f"}}


class ByteTokenizer:
    """Prompts are the last message's bytes; an answer that begins with a brace is a call."""

    official_stop_tokens = [STOP]

    def prompt_tokens(self, messages: list[Message], *, tools: Any = None) -> list[int]:
        if messages[-1].text_content == "refuse":
            raise ValueError("message 0: not in this format")
        return [257, *messages[-1].text_content.encode()]

    def parse_tokens(self, ids: Sequence[int]) -> ParsedMessage:
        text = bytes(token for token in ids if token < STOP).decode(errors="replace")
        parsed = ParsedMessage(complete=STOP in ids)
        try:
            call = json.loads(text) if text.startswith("{") else None
        except ValueError as error:
            parsed.unparsed = [UnparsedCall(text, str(error))]
            return parsed
        if call is None:
            parsed.content = text
        else:
            parsed.tool_calls = [ToolCall(call["name"], call["arguments"])]
        return parsed


def cases() -> list[ToolCase]:
    """Three questions that need a call, and one that does not."""
    wanted = [
        ToolCase([Message("user", f"in {city}?")], [TOOL], [ExpectedCall("f", {"c": city})], f"row {i}")
        for i, city in enumerate(CITIES)
    ]
    return [*wanted, ToolCase([Message("user", "hello")], [TOOL], [], "row 3")]


def small_model() -> Any:
    torch.manual_seed(0)
    return llama3(
        vocab_size=260, num_layers=2, num_heads=2, num_kv_heads=2, embed_dim=48, max_seq_len=80, intermediate_dim=96
    )


def train(model: Any, steps: int = 100) -> None:
    """Learn the right answers by heart."""
    tokenizer = ByteTokenizer()
    answers = [json.dumps({"name": "f", "arguments": {"c": city}}, separators=(",", ":")) for city in CITIES] + ["hi"]
    rows = []
    for case, answer in zip(cases(), answers, strict=True):
        prompt = tokenizer.prompt_tokens(case.messages)
        rows.append((prompt, [*answer.encode(), STOP]))
    length = max(len(p) + len(a) for p, a in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for i, (prompt, answer) in enumerate(rows):
        ids = torch.tensor([*prompt, *answer])
        tokens[i, : len(ids)] = ids
        labels[i, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = cross_entropy(model(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def trained() -> Any:
    model = small_model()
    train(model)
    return model


def evaluator(**options: Any) -> ToolCallEvaluator:
    return ToolCallEvaluator(ByteTokenizer(), cases(), **{"max_new_tokens": 48, "batch_size": 3, **options})


def test_training_is_seen_in_the_scores(trained: Any) -> None:
    before, after = evaluator()(small_model()), evaluator()(trained)
    assert before.scores.counts()["exact_match"] == (0, 3)
    assert after.scores.counts()["exact_match"] == (3, 3)
    assert after.scores.counts()["over_calling"] == (0, 1)
    assert [score.exact for score in after.cases] == [True] * 4
    assert before.scores.unfinished > 0 and after.scores.unfinished == 0


def test_samples_show_conversation_calls_and_score(trained: Any) -> None:
    result = evaluator(show_samples=2)(trained)
    assert len(result.samples) == 2
    text = str(result.samples[0])
    assert "user:      in Oslo?" in text
    assert 'expected:  f({"c": "Oslo"})' in text and 'model:     f({"c": "Oslo"})' in text
    assert text.endswith("score:     right")
    assert evaluator(show_samples=0)(trained).samples == []


def test_the_report_has_a_table_and_samples(trained: Any) -> None:
    from rich.console import Console

    result = evaluator()(trained)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report({"before": result, "after": result}))
    text = capture.get()
    assert text.count("100.0% (3/3)") >= 2 and "before" in text and "in Oslo?" in text


def test_a_prompt_too_long_for_the_model_counts_as_unanswered(trained: Any) -> None:
    long = ToolCase([Message("user", "x" * 200)], [TOOL], [ExpectedCall("f")], "row 9")
    result = ToolCallEvaluator(ByteTokenizer(), [*cases(), long], max_new_tokens=48)(trained)
    assert result.scores.counts()["exact_match"] == (3, 4)
    assert result.scores.unfinished == 1 and result.cases[4].problems == [
        "f: this call is missing",
        "the turn was not finished",
    ]


def test_no_cases_and_refused_prompts_are_named(trained: Any) -> None:
    with pytest.raises(ValueError, match="no cases"):
        ToolCallEvaluator(ByteTokenizer(), [])
    refused = ToolCase([Message("user", "refuse")], [TOOL], [], "row 5 of a.jsonl, message 1")
    with pytest.raises(ValueError, match="row 5 of a.jsonl, message 1: the prompt cannot be written: message 0"):
        ToolCallEvaluator(ByteTokenizer(), [refused])(trained)


def test_the_model_is_left_in_training(trained: Any) -> None:
    trained.train()
    evaluator()(trained)
    assert trained.training and not trained.caches_are_setup()


def test_a_model_with_compiled_layers_is_run_as_written(trained: Any) -> None:
    compiled = small_model()
    compiled.load_state_dict(trained.state_dict())
    for layer in compiled.layers:
        layer.compile(backend=lambda graph, inputs: pytest.fail("compiled for generation"))
    assert evaluator()(compiled).scores == evaluator()(trained).scores


def evaluate_sharded(rank: int, store: str, state: dict[str, Any], results: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = small_model()
    model.load_state_dict(state)
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    # One batch here, two there: the first rank has more cases, and its answers are longer.
    result = ToolCallEvaluator(ByteTokenizer(), cases()[:3], max_new_tokens=48, batch_size=1)(model)
    loss = model(torch.tensor([[1, 2, 3]])).mean()
    loss.backward()
    results[rank] = (result.scores, [str(sample) for sample in result.samples], bool(torch.isfinite(loss)))
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_with_a_sharded_model_give_the_scores_of_one(trained: Any, tmp_path: Path) -> None:
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(evaluate_sharded, args=(str(tmp_path / "store"), trained.state_dict(), results), nprocs=2)
        alone = ToolCallEvaluator(ByteTokenizer(), cases()[:3], max_new_tokens=48)(trained)
        for rank in range(2):
            scores, samples, trains_on = results[rank]
            assert scores == alone.scores and samples == [str(sample) for sample in alone.samples] and trains_on
