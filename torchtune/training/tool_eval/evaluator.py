"""Runs a model over cases and scores the tool calls that it makes."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from torchtune.data.formats._base import ParsedMessage
from torchtune.generation._messages import generate_tokens
from torchtune.training._distributed import gathered, get_world_size_and_rank
from torchtune.training.tool_eval.scoring import CaseScore, ToolCallScores, score_message, scores_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from torchtune.data._message import Message, ToolCall
    from torchtune.generation._messages import PromptTokenizer
    from torchtune.modules.transformer import TransformerDecoder
    from torchtune.training.tool_eval.cases import ToolCase


@dataclass
class ToolEvalSample:
    """A case with what the model answered, and how it scored.

    Args:
        case: the case.
        answer: the model's output, parsed.
        score: how it scored.
    """

    case: ToolCase
    answer: ParsedMessage
    score: CaseScore

    def __str__(self) -> str:
        """The conversation, a line for each message, what was expected, and the answer with its calls as JSON."""
        lines = [f"[{self.case.id}]"] if self.case.id else []
        lines += [line for message in self.case.messages for line in _message_lines(message)]
        expected = [_call_text(call.name, call.first_choice()) for call in self.case.expected]
        lines.append("expected:  " + ("; ".join(expected) or "no call"))
        if self.answer.content.strip():
            lines.append(f"model:     {self.answer.content.strip()}")
        lines += [f"model:     {_call_text(call.name, call.arguments)}" for call in self.answer.tool_calls]
        lines += [f"model:     {call.text!r} (did not parse: {call.reason})" for call in self.answer.unparsed]
        right = self.score.exact if self.case.expected else not self.score.generated
        lines.append("score:     " + ("right" if right else "wrong: " + "; ".join(self.score.problems)))
        return "\n".join(lines)


@dataclass
class ToolEvalResult:
    """What an evaluation found.

    Args:
        scores: counts and rates over all cases.
        cases: the score of each case, in the order of the cases.
        samples: a few conversations with the model's answers.
        seconds: how long it took.
    """

    scores: ToolCallScores
    cases: list[CaseScore] = field(default_factory=list)
    samples: list[ToolEvalSample] = field(default_factory=list)
    seconds: float = 0.0


class ToolCallEvaluator:
    """Scores the tool calls of a model, as often as it is called; prompts are encoded once.

    Where ``torch.distributed`` is initialized each rank takes its share of the cases, and all get the whole result. All
    ranks must call it at the same time; a model that is sharded (FSDP) then runs equally often on each.

    Args:
        tokenizer: a model tokenizer.
        cases: what to score.
        max_new_tokens: at most as many tokens are generated for a case.
        batch_size: cases answered at once.
        show_samples: number of samples in the result, of cases that need a call where there are any.

    Raises:
        ValueError: if there are no cases, or the tokenizer refuses a conversation; names the case.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        cases: Sequence[ToolCase],
        *,
        max_new_tokens: int = 256,
        batch_size: int = 8,
        show_samples: int = 2,
    ) -> None:
        if not cases:
            raise ValueError("There are no cases to evaluate tool calls on: the dataset has no assistant turn")
        self.tokenizer = tokenizer
        self.cases = list(cases)
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._prompts: dict[int, list[int]] = {}
        wanted = [i for i, case in enumerate(self.cases) if case.expected] or list(range(len(self.cases)))
        step = max(len(wanted) // max(show_samples, 1), 1)
        self._shown = wanted[::step][:show_samples]

    def __call__(self, model: TransformerDecoder) -> ToolEvalResult:
        """Greedy answers of the model to all cases, scored; the model is left as it was.

        A case whose prompt is too long for the model counts as unanswered and unfinished.
        """
        started = time.perf_counter()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world, rank = get_world_size_and_rank()
        mine = range(rank, len(self.cases), world)
        answers = self._answers(model, mine, torch.distributed.group.WORLD if distributed else None)
        found: dict[int, tuple[CaseScore, ParsedMessage | None]] = {}
        for i, answer in answers.items():
            case = self.cases[i]
            score = score_message(case.expected, answer, tool_names=case.tool_names, loose_strings=case.loose_strings)
            found[i] = score, answer if i in self._shown else None
        found = {i: item for part in gathered(found) for i, item in part.items()}
        scores = [found[i][0] for i in range(len(self.cases))]
        samples = [ToolEvalSample(self.cases[i], found[i][1] or ParsedMessage(), found[i][0]) for i in self._shown]
        return ToolEvalResult(ToolCallScores.of(scores), scores, samples, time.perf_counter() - started)

    def _answers(self, model: TransformerDecoder, indices: Sequence[int], group: Any) -> dict[int, ParsedMessage]:
        room = getattr(model, "max_seq_len", None)
        prompts = {i: self._prompt(i) for i in indices}
        fitting = [i for i in indices if room is None or len(prompts[i]) < room]
        with _eager(model):
            outputs = generate_tokens(
                model,
                [prompts[i] for i in fitting],
                stop_tokens=self.tokenizer.official_stop_tokens,
                max_generated_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                group=group,
            )
        answers = dict.fromkeys(indices, ParsedMessage())
        return answers | {i: self.tokenizer.parse_tokens(ids) for i, ids in zip(fitting, outputs, strict=True)}

    def _prompt(self, i: int) -> list[int]:
        if i not in self._prompts:
            case = self.cases[i]
            try:
                self._prompts[i] = self.tokenizer.prompt_tokens(case.messages, tools=case.tools or None)
            except ValueError as error:
                raise ValueError(f"{case.id or f'case {i}'}: the prompt cannot be written: {error}") from error
        return self._prompts[i]


def report(results: dict[str, ToolEvalResult], title: str = "Tool calls") -> RenderableType:
    """A ``rich`` group to print: a table with a column for each result, and the samples of the last.

    Args:
        results: by the head of their column, such as ``{"before": ..., "after": ...}``.
        title: of the table.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    table = scores_table({name: result.scores for name, result in results.items()}, title)
    last = next(reversed(results.values()), None)
    samples = last.samples if last is not None else []
    return Group(table, *(Panel(Text(str(sample)), title="sample", title_align="left") for sample in samples))


def _eager(model: torch.nn.Module) -> AbstractContextManager[Any]:
    """Runs compiled parts as they were written: they would be compiled again for each length of a cache."""
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _call_text(name: str, arguments: Any) -> str:
    return f"{name}({json.dumps(arguments, ensure_ascii=False)})"


def _message_lines(message: Message) -> list[str]:
    role = f"{message.role}:".ljust(11)
    text = message.text_content.strip()
    calls: list[ToolCall] = message.tool_calls or []
    return ([role + text] if text or not calls else []) + [role + _call_text(c.name, c.arguments) for c in calls]
