"""Scoring of tool calls, by name and by arguments: cases, scores, and an evaluator that runs a model over cases."""

from typing import TYPE_CHECKING, Any

from torchtune.training.tool_eval.cases import ToolCase, case_from_bfcl, cases_from_messages
from torchtune.training.tool_eval.scoring import (
    CaseScore,
    ExpectedCall,
    ToolCallScores,
    score_calls,
    score_message,
    scores_table,
)

if TYPE_CHECKING:
    from torchtune.training.tool_eval.evaluator import ToolCallEvaluator, ToolEvalResult, ToolEvalSample, report

__all__ = [
    "CaseScore",
    "ExpectedCall",
    "ToolCallEvaluator",
    "ToolCallScores",
    "ToolCase",
    "ToolEvalResult",
    "ToolEvalSample",
    "case_from_bfcl",
    "cases_from_messages",
    "report",
    "score_calls",
    "score_message",
    "scores_table",
]


def __getattr__(name: str) -> Any:
    # The evaluator needs torch and the generation loop; scores and cases do not.
    if name in __all__:
        from torchtune.training.tool_eval import evaluator

        return getattr(evaluator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
