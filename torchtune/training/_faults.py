"""What a run does when something goes wrong: it ends with a checkpoint, or with a message that says what to do."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from torchtune.training._distributed import gathered, get_world_size_and_rank, is_distributed

_log = logging.getLogger("torchtune")
_MOST_SKIPS = 10


class StopSignal:
    """Notes SIGTERM, which schedulers send some time before they kill, so that the loop can save and end.

    The handler stays for the life of the process; further SIGTERMs change nothing.

    Args:
        device: where ranks agree; a signal may reach only some of them.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.received = False
        try:
            signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not in the main thread, where signals never arrive
            _log.debug("SIGTERM is not handled: the recipe doesn't run in the main thread")

    def _note(self, *_: Any) -> None:
        if not self.received:
            _log.warning("SIGTERM: ending after this step, with a checkpoint")
        self.received = True

    def requested(self) -> bool:
        """Whether any rank was asked to stop; every rank calls this equally often."""
        if dist.is_available() and dist.is_initialized():
            asked = torch.tensor(int(self.received), device=self.device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
            self.received = bool(asked)
        return self.received


class NonFiniteLossError(RuntimeError):
    """A loss, or the norm of its gradients, is NaN or infinite."""


class LossCheck:
    """Looks at each step's loss before the optimizer uses its gradients.

    Args:
        action: ``stop`` raises an error; ``skip`` leaves the step out and counts it in ``skipped``, and stops after ten in a
            row, for then the weights themselves are no numbers.

    Raises:
        ValueError: if the action is another.
    """

    def __init__(self, action: str = "stop") -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"on_nan_loss is {action!r}; expected 'stop' or 'skip'")
        self.action = action
        self.skipped = 0
        self._in_a_row = 0

    def __call__(
        self,
        loss: torch.Tensor,
        grad_norm: float | None,
        parts: Sequence[torch.Tensor],
        batches: Sequence[dict[str, Any]],
        step: int,
    ) -> bool:
        """Whether a step can be used, by its loss and norm; ``parts`` and ``batches`` are those of this rank."""
        value = loss.item()
        if math.isfinite(value + (grad_norm or 0.0)):
            self._in_a_row = 0
            return True
        bad = [batch for part, batch in zip(parts, batches, strict=True) if not math.isfinite(part.item())]
        where = _rows(bad or list(batches))
        found = f"The loss of step {step} is {value}" + (f", its gradients' norm {grad_norm}" if grad_norm else "")
        self._in_a_row += 1
        if self.action == "skip" and self._in_a_row <= _MOST_SKIPS:
            self.skipped += 1
            _log.warning("%s; the step is left out (%d so far). %s", found, self.skipped, where)
            return False
        again = f" for the {self._in_a_row}th time in a row" if self.action == "skip" else ""
        raise NonFiniteLossError(
            f"{found}{again}. {where} Look at these rows; lower optimizer.lr or set clip_grad_norm: 1.0; dtype: bf16 "
            "overflows less than fp16. on_nan_loss: skip leaves such steps out. Checkpoints on disk are from before it"
        )


def _rows(batches: Sequence[dict[str, Any]]) -> str:
    """The rows of all ranks' batches, in a sentence."""
    by_rank = gathered([row for batch in batches for row in batch.get("rows", ())])
    if not any(by_rank):
        return "Its rows have no numbers: the dataset is a stream."
    several = len(by_rank) > 1
    parts = [", ".join(map(str, rows)) + f" (rank {rank})" * several for rank, rows in enumerate(by_rank) if rows]
    return f"Rows of the training data in it, from 0: {'; '.join(parts)}."


_MEMORY_ERRORS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def out_of_memory_advice(error: BaseException, cfg: DictConfig) -> str | None:
    """Which settings would help, if an error says that memory is short; None for another error.

    Args:
        error: what was raised.
        cfg: the run's config; settings that it has already are not proposed.
    """
    said = isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_ERRORS)
    if not said and not isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return None
    helps = [f"{setting} ({why})" for needed, setting, why in _memory_settings(cfg) if needed]
    first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return f"Out of memory: {first_line}\nWhat would help, the cheapest first:\n  " + "\n  ".join(helps[:5])


def _memory_settings(cfg: DictConfig) -> Iterator[tuple[bool, str, str]]:
    """Whether a setting is left to be changed, what to set, and what it does."""
    size, steps = int(cfg.get("batch_size", 1)), int(cfg.get("gradient_accumulation_steps", 1))
    component = {key: str(cfg.get(key, {}).get("_component_", "")) for key in ("loss", "model", "optimizer")}
    lora = ".lora_" in component["model"] or ".qlora_" in component["model"] or ".dora_" in component["model"]
    recompute = cfg.get("enable_activation_checkpointing") or cfg.get("ac_mode")
    longest = cfg.get("tokenizer", {}).get("max_seq_len")
    linear = "torchtune.modules.loss.LinearCrossEntropyLoss"
    chunked = component["loss"].endswith("LinearCrossEntropyLoss")
    yield not chunked, f"loss._component_={linear}", "no logits of all tokens"
    yield not recompute, "enable_activation_checkpointing=true", "keeps one activation per layer, a fifth slower"
    half = f"batch_size={size // 2} gradient_accumulation_steps={steps * 2}"
    yield size > 1, half, "half the activations, the same updates; optimizer_in_bwd must be false"
    yield str(cfg.get("dtype")) == "fp32", "dtype=bf16", "half of everything"
    yield get_world_size_and_rank()[0] > 1 and not cfg.get("fsdp_cpu_offload"), "fsdp_cpu_offload=true", "slower"
    large = not lora and "8bit" not in component["optimizer"]
    yield large, "optimizer._component_=torchao.optim.AdamW8bit", "a quarter of the optimizer's states"
    yield bool(recompute and not cfg.get("enable_activation_offloading")), "enable_activation_offloading=true", "slower"
    yield not lora, "a config with LoRA, see `tune ls`", "no gradients and states of the base weights"
    plain = lora and not cfg.get("model", {}).get("quantize_base")
    yield plain, "model.quantize_base=true", "QLoRA: 4-bit base weights"
    yield longest is None or int(longest) > 512, "a smaller tokenizer.max_seq_len", f"is {longest}; cuts long rows"


def check_recipe(cfg: DictConfig, unknown_keys: Sequence[str], required: Iterable[str]) -> None:
    """Refuses a config that was written for another recipe, before anything is loaded.

    Args:
        cfg: the config.
        unknown_keys: what of it the recipe doesn't read.
        required: what it can't do without.

    Raises:
        ValueError: if a required key is missing, or the loss is one of preferences; the keys are named.
    """
    missing = [key for key in required if key not in cfg]
    loss = str((cfg.get("loss") or {}).get("_component_", ""))
    if not missing and not loss.startswith("torchtune.rlhf."):
        return
    lacks = f"it lacks {', '.join(missing)}" if missing else f"its loss is {loss}, which needs pairs of answers"
    has = f", and has {', '.join(unknown_keys[:6])}, which this recipe doesn't read" if unknown_keys else ""
    raise ValueError(
        f"The config is not one of this recipe: {lacks}{has}. `tune ls` shows which configs go with which recipe; add the "
        "keys if it is your own"
    )


@contextmanager
def fault_reports(cfg: DictConfig) -> Iterator[None]:
    """Around a run: memory errors get advice, and torchrun learns of the error that a rank ended with.

    Args:
        cfg: the run's config.

    Raises:
        RuntimeError: in place of a memory error.
    """
    try:
        yield
    except Exception as error:
        advice = out_of_memory_advice(error, cfg)
        final: Exception = RuntimeError(advice) if advice else error
        if is_distributed():  # torchrun names the first error in its summary and ends the other ranks
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            handler = get_error_handler()
            handler.initialize()
            handler.record_exception(final)
        if advice:
            raise final from error
        raise
