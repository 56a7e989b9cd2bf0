"""Checking rows before they train: every error of every row, with its line."""

from torchtune.data.checks._report import CheckReport, RowError
from torchtune.data.checks._run import check_rows

__all__ = ["CheckReport", "RowError", "check_rows"]
