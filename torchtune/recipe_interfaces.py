"""What the kinds of recipe have in common, for those who write their own."""

from __future__ import annotations

from typing import Any, Protocol


class FTRecipeInterface(Protocol):
    """A fine-tuning recipe: one ``setup``, one ``train``, then ``cleanup``."""

    def load_checkpoint(self, **kwargs: Any) -> None:
        """Reads the checkpoint to start or resume from."""
        ...

    def setup(self, **kwargs: Any) -> None:
        """Builds model, tokenizer, optimizer, data and all else that training needs."""
        ...

    def train(self, **kwargs: Any) -> None:
        """Runs all epochs."""
        ...

    def save_checkpoint(self, **kwargs: Any) -> None:
        """Writes the model, and what a resume needs."""
        ...

    def cleanup(self, **kwargs: Any) -> None:
        """Closes loggers and the process group."""
        ...


class EvalRecipeInterface(Protocol):
    """An evaluation recipe."""

    def load_checkpoint(self, **kwargs: Any) -> None:
        """Reads the checkpoint to evaluate."""
        ...

    def setup(self, **kwargs: Any) -> None:
        """Builds model, tokenizer and tasks."""
        ...

    def evaluate(self, **kwargs: Any) -> None:
        """Runs the tasks and reports their results."""
        ...


class OrchestrationRecipeInterface(Protocol):
    """A recipe that starts and drives several workers."""

    def setup(self, **kwargs: Any) -> None:
        """Creates the workers."""
        ...

    def run(self, **kwargs: Any) -> None:
        """Runs the workers to the end."""
        ...

    def cleanup(self, **kwargs: Any) -> None:
        """Stops the workers."""
        ...
