"""Scoring of tool calls: by name and by arguments, before and after training."""

from torchtune.training.tool_eval.cases import ToolCase, case_from_bfcl, cases_from_messages
from torchtune.training.tool_eval.scoring import (
    CaseScore,
    ExpectedCall,
    ToolCallScores,
    score_calls,
    score_message,
    scores_table,
)

__all__ = [
    "CaseScore",
    "ExpectedCall",
    "ToolCallScores",
    "ToolCase",
    "case_from_bfcl",
    "cases_from_messages",
    "score_calls",
    "score_message",
    "scores_table",
]
