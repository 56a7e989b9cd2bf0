"""Train earlier layers to predict tokens too (LayerSkip, https://arxiv.org/abs/2404.16710)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from torchtune.modules.loss.loss_types import SFTLoss
from torchtune.modules.transformer import TransformerDecoder

logger = logging.getLogger(__name__)

LossScale = Callable[[Tensor, int, float], Tensor]


def _normalized(weights: Tensor, layer_ids: Tensor, n_layers: int, e_scale: float) -> Tensor:
    """Weights that add up to 1, those of early layers multiplied by ``e_scale``."""
    weights = torch.where(layer_ids < n_layers - 1, weights * e_scale, weights)
    return weights / weights.sum()


def _loss_scale(name: str, text: str, weigh: Callable[[Tensor], Tensor]) -> LossScale:
    """A public function that gives each layer its share of the loss."""

    def scale(layer_ids: Tensor, n_layers: int, e_scale: float = 1.0) -> Tensor:
        return _normalized(weigh(layer_ids.float() + 1), layer_ids, n_layers, e_scale)

    scale.__name__ = scale.__qualname__ = name
    scale.__doc__ = f"""Share of each layer in the loss: {text}.

    Args:
        layer_ids (Tensor): numbers of the layers, from 0, ``[e]``.
        n_layers (int): number of layers of the model.
        e_scale (float): factor of all layers but the last.

    Returns:
        Tensor: shares ``[e]`` that add up to 1.
    """
    return scale


uniform_loss_scale = _loss_scale("uniform_loss_scale", "all the same", torch.ones_like)
linear_l_loss_scale = _loss_scale("linear_l_loss_scale", "in proportion to its number l", lambda n: n)
sum_l_loss_scale = _loss_scale("sum_l_loss_scale", "in proportion to 1 + ... + l", lambda n: n * (n + 1) / 2)
sqrt_l_loss_scale = _loss_scale("sqrt_l_loss_scale", "in proportion to the root of its number l", torch.sqrt)
inv_l_loss_scale = _loss_scale("inv_l_loss_scale", "in proportion to 1 / l", torch.reciprocal)
inv_sqrt_l_loss_scale = _loss_scale("inv_sqrt_l_loss_scale", "in proportion to 1 / sqrt(l)", torch.rsqrt)


def early_exit_loss(
    model: TransformerDecoder,
    hidden_states_dict: dict[int, Tensor],
    labels: Tensor,
    loss_fn: nn.Module,
    e_scale: float = 1.0,
    loss_scale_fn: LossScale = uniform_loss_scale,
) -> Tensor:
    """The weighted sum of the losses of early layers, each put through the model's last norm and output layer.

    Args:
        model (TransformerDecoder): the model.
        hidden_states_dict (dict[int, Tensor]): hidden states ``[b, s, d]`` by layer.
        labels (Tensor): ``[b, s]``, shifted as those of the model's own loss.
        loss_fn (nn.Module): the recipe's loss: an ``SFTLoss``, or one of logits ``[n, v]`` and labels ``[n]``.
        e_scale (float): factor of all layers but the last.
        loss_scale_fn (LossScale): share of each layer.
    """
    layer_ids = torch.tensor(list(hidden_states_dict), device=labels.device)
    losses = []
    for hidden in hidden_states_dict.values():
        out = model.unembed(hidden)
        if isinstance(out, list) or isinstance(loss_fn, SFTLoss):
            losses.append(loss_fn(out, labels))
        else:
            losses.append(loss_fn(out.reshape(-1, out.shape[-1]), labels.reshape(-1)))
    scales = loss_scale_fn(layer_ids, len(model.layers), e_scale)
    return (scales * torch.stack(losses)).sum()


class EarlyExitCurriculum:
    """Which layers have an early-exit loss at each step; here always the same ones.

    Args:
        do_output_hidden_states (list[bool]): for each layer whether it has one.
        max_steps (int): steps of the training.
        train_last_layer (bool): the last layer always has one.
        last_step (int | None): step to go on from.
        verbose (bool): log the layers at each step.
    """

    def __init__(
        self,
        do_output_hidden_states: list[bool],
        max_steps: int,
        train_last_layer: bool = True,
        last_step: int | None = None,
        verbose: bool = False,
    ) -> None:
        self._layers = np.array(do_output_hidden_states, dtype=bool)
        self.train_last_layer = train_last_layer
        self.verbose = verbose
        self.max_steps = max_steps
        self._step = last_step or 0

    def _now(self) -> np.ndarray:
        return self._layers.copy()

    def step(self) -> None:
        """Go on to the next training step."""
        self._step += 1
        if self.verbose:
            logger.info("Early exit at step %d: layers %s", self._step, np.flatnonzero(self.get()).tolist())

    def get(self) -> np.ndarray:
        """Whether each layer has an early-exit loss now, bool ``[n_layers]``."""
        now = self._now()
        if self.train_last_layer:
            now[-1] = True
        return now


class RotationalEarlyExitCurriculum(EarlyExitCurriculum):
    """The layers, at first those of ``do_output_hidden_states``, move on by one at each step."""

    def _now(self) -> np.ndarray:
        return np.roll(self._layers, self._step)


class GradualEarlyExitCurriculum(EarlyExitCurriculum):
    """Layers are added one by one, from the last to the first.

    Args:
        do_output_hidden_states (list[bool]): for each layer whether it has a loss in the end.
        fraction_scale (float): fraction of the training after which all have one.
    """

    def __init__(
        self,
        do_output_hidden_states: list[bool],
        max_steps: int,
        train_last_layer: bool = True,
        last_step: int | None = None,
        fraction_scale: float = 0.5,
        verbose: bool = False,
    ) -> None:
        super().__init__(do_output_hidden_states, max_steps, train_last_layer, last_step, verbose)
        self.fraction_scale = fraction_scale

    def _now(self) -> np.ndarray:
        count = len(self._layers)
        active = min(count, math.ceil(self._step / self.max_steps * count / self.fraction_scale))
        now = np.zeros(count, dtype=bool)
        now[count - active :] = self._layers[count - active :]
        return now
