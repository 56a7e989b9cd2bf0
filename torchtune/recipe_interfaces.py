"""What the kinds of recipe have in common, for those who write their own."""

from __future__ import annotations

from typing import Protocol


class FTRecipeInterface(Protocol):
    """A fine-tuning recipe: one ``setup``, one ``train``, then ``cleanup``."""

    def load_checkpoint(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Reads the checkpoint to start or resume from."""
        ...

    def setup(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Builds model, tokenizer, optimizer, data and all else that training needs."""
        ...

    def train(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Runs all epochs."""
        ...

    def save_checkpoint(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Writes the model, and what a resume needs."""
        ...

    def cleanup(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Closes loggers and the process group."""
        ...


class EvalRecipeInterface(Protocol):
    """An evaluation recipe."""

    def load_checkpoint(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Reads the checkpoint to evaluate."""
        ...

    def setup(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Builds model, tokenizer and tasks."""
        ...

    def evaluate(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Runs the tasks and reports their results."""
        ...


class OrchestrationRecipeInterface(Protocol):
    """A recipe that starts and drives several workers."""

    def setup(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Creates the workers."""
        ...

    def run(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Runs the workers to the end."""
        ...

    def cleanup(self, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Stops the workers."""
        ...
