"""What a training step minimizes: the loss alone, or with a teacher's distributions or early layers' predictions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from torchtune.modules.common_utils import slice_str_to_array
from torchtune.modules.early_exit_loss import EarlyExitCurriculum, early_exit_loss, uniform_loss_scale
from torchtune.modules.layer_dropout import LayerDropout, prepare_layer_dropout
from torchtune.modules.loss import SFTLoss
from torchtune.training._compile import compile_loss
from torchtune.training._step import LossAccumulator, count_loss_tokens


def token_loss(
    loss_fn: nn.Module, outputs: Tensor | list[Tensor], labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The mean loss per label that counts, by their weights where there are any.

    Args:
        loss_fn: an ``SFTLoss``, one of logits in pieces, or one of logits ``[n, v]`` and labels ``[n]``.
        outputs: what the model returned for it.
        labels: ``[b, s]``.
        weights: factors on the labels' losses, ``[b, s]``.

    Raises:
        ValueError: if there are weights and the loss takes none.
    """
    if weights is not None:
        if "weights" not in inspect.signature(loss_fn.forward).parameters:
            raise ValueError(
                f"Some tokens of this batch weigh more or less than others, but the loss {type(loss_fn).__name__} takes no "
                "weights; use LinearCrossEntropyLoss or CEWithChunkedOutputLoss, or leave out weights of messages and the "
                "factors in tokenizer.train_on"
            )
        return loss_fn(outputs, labels, weights=weights)
    if not isinstance(loss_fn, SFTLoss) and not isinstance(outputs, list):
        outputs, labels = outputs.reshape(-1, outputs.size(-1)), labels.reshape(-1)
    return loss_fn(outputs, labels)


class Objective:
    """The loss of the labels, and what the objectives below have in common.

    Args:
        model: the model that is trained.
        loss_fn: its loss.
    """

    def __init__(self, model: nn.Module, loss_fn: nn.Module) -> None:
        self.model: Any = model
        self.loss_fn = loss_fn

    def at_step(self, step: int) -> None:
        """Prepares for an optimizer step, by its number from 0.

        Args:
            step: number of the step, from 0.
        """

    def __call__(self, outputs: Any, labels: Tensor, batch: dict[str, Any], weights: Tensor | None = None) -> Tensor:
        """Mean loss per label ``[b, s]`` that counts; in evaluation that of the labels alone."""
        return token_loss(self.loss_fn, outputs, labels, weights)

    def end_step(self) -> dict[str, float]:
        """Ends a step; every rank calls it, and gets what else there is to log."""
        return {}


class Distillation(Objective):
    """``1 - kd_ratio`` times the loss of the labels and ``kd_ratio`` times the distance from a teacher's distribution.

    Args:
        teacher: a model with the same vocabulary; its weights stay as they are.
        kd_loss: a loss of :mod:`torchtune.modules.loss.kd_losses`.
        kd_ratio: between 0 and 1.

    Raises:
        ValueError: if the ratio is out of range, or one of the losses takes logits in pieces and the other does not.
    """

    def __init__(self, model: nn.Module, loss_fn: nn.Module, teacher: Any, kd_loss: nn.Module, kd_ratio: float) -> None:
        super().__init__(model, loss_fn)
        if not 0 <= kd_ratio <= 1:
            raise ValueError(f"kd_ratio is {kd_ratio}; expected a number from 0 (labels only) to 1 (teacher only)")
        pieces, own = getattr(kd_loss, "num_output_chunks", 0), getattr(loss_fn, "num_output_chunks", 0)
        if not self.model.skip_output_layer and bool(pieces) != bool(own):
            raise ValueError(
                f"loss ({type(loss_fn).__name__}) and kd_loss ({type(kd_loss).__name__}) must both take logits in pieces "
                "(CEWithChunkedOutputLoss and ...WithChunkedOutputLoss), or both whole; LinearCrossEntropyLoss goes with any"
            )
        self.teacher: Any = teacher.eval().requires_grad_(False)
        self.kd_loss, self.kd_ratio = kd_loss, kd_ratio
        self.model.set_num_output_chunks(pieces)
        self.teacher.set_num_output_chunks(pieces)
        self._parts: dict[str, LossAccumulator] = {}

    def __call__(self, outputs: Any, labels: Tensor, batch: dict[str, Any], weights: Tensor | None = None) -> Tensor:
        _refuse_weights(weights, "teacher_model")
        loss = super().__call__(outputs, labels, batch)
        if not self.model.training:
            return loss
        with torch.no_grad():
            wanted = self.teacher(**batch)
        logits = self._logits(outputs)
        ours, theirs = ((x[0] if isinstance(x, list) else x).size(-1) for x in (logits, wanted))
        if ours != theirs:
            raise ValueError(
                f"The student's vocabulary has {ours} tokens and the teacher's {theirs}; distillation compares them one by "
                "one, so choose a teacher_model with the student's vocabulary"
            )
        distance = self.kd_loss(logits, wanted, labels)
        tokens = count_loss_tokens(labels, self.kd_loss.ignore_index)  # type: ignore[arg-type]
        for name, part in (("class_loss", loss), ("kd_loss", distance)):
            self._parts.setdefault(name, LossAccumulator(labels.device)).add(part.detach(), tokens)
        return (1 - self.kd_ratio) * loss + self.kd_ratio * distance

    def _logits(self, outputs: Any) -> Any:
        if not self.model.skip_output_layer:
            return outputs
        return self.model.chunked_output(outputs) if self.model.num_output_chunks else self.model.output(outputs)

    def end_step(self) -> dict[str, float]:
        return {name: part.finish().loss.item() for name, part in self._parts.items()}


class EarlyExit(Objective):
    """Losses of early layers besides the last one's, and layers that are skipped at random (LayerSkip).

    Args:
        curriculum: makes, of the number of the first step, what says which layers have a loss; None: only the last one.
        scale_fn: the share of each layer.
        scale: factor of all layers but the last.
        seed: of the draws of layers to skip; the same on all ranks, so that they skip the same layers.

    Source: https://arxiv.org/abs/2404.16710.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: nn.Module,
        curriculum: Callable[[int], EarlyExitCurriculum] | None = None,
        scale_fn: Callable[..., Tensor] = uniform_loss_scale,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(model, loss_fn)
        self.scale_fn, self.scale = scale_fn, scale
        self._make_curriculum = curriculum
        self._curriculum: EarlyExitCurriculum | None = None
        self._seed = seed
        self._layers: list[int] = []
        self._dropouts = [module for module in model.modules() if isinstance(module, LayerDropout)]

    def at_step(self, step: int) -> None:
        """Draws depend on the step alone, so that a run that is resumed goes on as it would have."""
        for number, dropout in enumerate(self._dropouts):
            dropout.generator.manual_seed((self._seed * 1_000_003 + step) * 1_009 + number)
        if self._make_curriculum is None:
            return
        if self._curriculum is None:
            self._curriculum = self._make_curriculum(step)
        else:
            self._curriculum.step()
        self._layers = [layer for layer, exits in enumerate(self._curriculum.get()) if exits]
        # What comes out of a layer goes into the next.
        self.model.output_hidden_states = [layer + 1 for layer in self._layers]

    def __call__(self, outputs: Any, labels: Tensor, batch: dict[str, Any], weights: Tensor | None = None) -> Tensor:
        _refuse_weights(weights, "early_exit_loss and layer_dropout")
        if not self.model.output_hidden_states:  # evaluation, or no early layer has a loss
            return super().__call__(outputs, labels, batch)
        states = dict(zip(self._layers, outputs[:-1], strict=True))
        return early_exit_loss(self.model, states, labels, self.loss_fn, self.scale, self.scale_fn)

    def end_step(self) -> dict[str, float]:
        if self._curriculum is not None:
            self.model.output_hidden_states = []
        return {}


def _refuse_weights(weights: Tensor | None, setting: str) -> None:
    if weights is not None:
        raise ValueError(
            f"Some tokens of this batch weigh more or less than others; this does not go with {setting}. Leave out weights "
            "of messages other than 0 and 1, and the factors in tokenizer.train_on"
        )


def build_objective(
    cfg: DictConfig,
    model: nn.Module,
    loss_fn: nn.Module,
    *,
    load_teacher: Callable[[], nn.Module],
    total_steps: int,
    seed: int = 0,
) -> Objective:
    """The objective that a config asks for; where it asks for nothing else, the plain loss.

    Args:
        cfg: a recipe's config, whose keys on a teacher, early exits and layer dropout are read.
        model: the model that is trained.
        loss_fn: its loss.
        load_teacher: gives the teacher with its weights; called if there is a ``teacher_model``.
        total_steps: optimizer steps of the run.
        seed: the same on all ranks.

    Raises:
        ValueError: if settings contradict each other or one is missing.
    """
    from torchtune import config
    from torchtune.config._utils import _get_component_from_path

    exits = cfg.get("early_exit_loss") or {}
    if cfg.get("teacher_model"):
        if exits or not cfg.get("kd_loss"):
            raise ValueError("teacher_model needs kd_loss, and does not go with early_exit_loss")
        kd_loss = config.instantiate(cfg.kd_loss)
        kd_loss = compile_loss(kd_loss) if cfg.get("compile") else kd_loss
        return Distillation(model, loss_fn, load_teacher(), kd_loss, cfg.get("kd_ratio", 0.5))
    if not exits and not cfg.get("layer_dropout"):
        return Objective(model, loss_fn)
    if not exits:
        return EarlyExit(model, loss_fn, seed=seed)
    here = "torchtune.modules.early_exit_loss"
    layers = slice_str_to_array(exits.get("layers", ":"), len(model.layers))  # type: ignore[arg-type]
    curriculum = _get_component_from_path(exits.get("curriculum") or f"{here}.EarlyExitCurriculum")
    scale_fn = _get_component_from_path(exits.get("scale_fn") or f"{here}.uniform_loss_scale")
    return EarlyExit(
        model,
        loss_fn,
        lambda step: curriculum(layers, max_steps=total_steps, last_step=step),
        scale_fn,
        exits.get("scale", 1.0),
        seed,
    )


def add_layer_dropout(model: nn.Module, section: DictConfig) -> None:
    """Puts layer dropout around a model's layers, in place.

    Args:
        model: has ``layers``.
        section: ``prob`` of the last layer, ``layers``, ``layers_scale`` and ``disable_on_eval``.
    """
    prepare_layer_dropout(
        model.layers,  # type: ignore[arg-type]
        prob_max=section.get("prob", 0.0),
        prob_layer_scale=section.get("layers_scale", "uniform"),
        layers_str=section.get("layers"),
        disable_on_eval=section.get("disable_on_eval", True),
    )
