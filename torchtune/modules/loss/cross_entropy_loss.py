"""Output projection and cross entropy in one, never with all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from torchtune.modules._functional import _eager
from torchtune.modules.loss.loss_types import SFTLoss, cross_entropy_sum, total_weight
from torchtune.modules.tied_linear import TiedLinear

#: First token of the vocabulary that a rank has, and the ranks that have the others.
_VocabularyPart = tuple[int, dist.ProcessGroup]


def _loss_and_gradient(
    logits: Tensor,
    target: Tensor,
    counts: Tensor,
    scale: Tensor,
    wide: Tensor | None,
    part: _VocabularyPart | None = None,
) -> Tensor:
    """Sum of the chunk's cross entropy; ``logits`` become its gradient, times ``scale``.

    ``counts`` are weights of tokens, False or 0 for ignored ones; ``wide`` is an fp32 buffer where the logits are narrower.
    With ``part`` the logits are those of a part of the vocabulary, and the ranks exchange three numbers per token.
    """
    work = logits if wide is None else wide.copy_(logits)
    top = work.amax(dim=-1, keepdim=True)
    index, weight = target.unsqueeze(1), scale * counts.unsqueeze(1)
    here = weight
    if part is not None:
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=part[1])
        index = index - part[0]
        inside = (index >= 0) & (index < logits.shape[1])
        index, here = index * inside, weight * inside
    work -= top
    picked = work.gather(1, index)
    work.exp_()
    total = work.sum(dim=-1, keepdim=True)
    if part is not None:
        both = torch.cat([total, picked * inside], dim=1)
        dist.all_reduce(both, group=part[1])
        total, picked = both.split(1, dim=1)
    work *= weight / total
    work.scatter_add_(1, index, -here.to(work.dtype))
    if wide is not None:
        logits.copy_(work)
    return ((total.log() - picked) * counts.unsqueeze(1)).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropy times ``scale``, with its gradients computed chunk by chunk in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        counts: Tensor,
        scale: Tensor,
        num_chunks: int,
        needs: tuple[bool, bool],
        step: Callable[..., Tensor],
        vocabulary: _VocabularyPart | None,
    ) -> Tensor:
        rows = -(-hidden.shape[0] // max(1, min(num_chunks, hidden.shape[0])))
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.empty_like(weight) if needs[1] else None
        buffer = hidden.new_empty(rows, weight.shape[0])
        wide = None if hidden.dtype == torch.float32 else torch.empty_like(buffer, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            chunk = hidden[part]
            logits = torch.mm(chunk, weight.t(), out=buffer[: chunk.shape[0]])
            wide_part = wide if wide is None else wide[: chunk.shape[0]]
            loss += step(logits, target[part], counts[part], scale, wide_part, vocabulary)
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[part])
            if grad_weight is not None and start == 0:
                torch.mm(logits.t(), chunk, out=grad_weight)
            elif grad_weight is not None:
                grad_weight.addmm_(logits.t(), chunk)
        if vocabulary is not None and grad_hidden is not None:
            dist.all_reduce(grad_hidden, group=vocabulary[1])
        ctx.gradients = (grad_hidden, grad_weight)
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "LinearCrossEntropyLoss can be differentiated once: its gradients are handed on, not kept. "
                "Compute the loss anew instead of retain_graph=True"
            )
        gradients, ctx.gradients = ctx.gradients, None
        # The recipes scale the loss; in place, since these are the largest tensors there are.
        scaled = [g if g is None else g.mul_(grad.to(g.dtype)) for g in gradients]
        return scaled[0], scaled[1], None, None, None, None, None, None, None


class LinearCrossEntropyLoss(SFTLoss, nn.Module):
    """Cross entropy of hidden states: the output projection is part of the loss and done in chunks.

    On plain tensors each chunk's gradients are computed right after its loss, in buffers that all chunks share, so the
    logits of all tokens never exist. The result is the mean over tokens that are not ignored.

    Args:
        num_output_chunks (int): chunks of tokens.
        ignore_index (int): target of tokens that don't count.
        tp_enabled (bool): whether the model is sharded with tensor parallelism.
        mask_ignored_tokens (bool): leave ignored tokens out of the projection.
    """

    def __init__(
        self,
        num_output_chunks: int = 8,
        ignore_index: int = -100,
        tp_enabled: bool = False,
        mask_ignored_tokens: bool = True,
    ) -> None:
        super().__init__()
        self.num_output_chunks = num_output_chunks
        self.ignore_index = ignore_index
        self.tp_enabled = tp_enabled
        self.mask_ignored_tokens = mask_ignored_tokens
        self.linear_projection: Any = None
        self._step: Callable[..., Tensor] = _loss_and_gradient

    @property
    def tp_requires_loss_parallel_ctx_manager(self) -> bool:
        """Whether, under tensor parallelism, loss and backward must run in ``loss_parallel()``: they do."""
        return True

    def patch_tp_plan(self, tp_plan: Any) -> Any:
        """A plan in which the output projection, which the loss calls itself, takes replicated states and gives sharded logits.

        Raises:
            KeyError: if the plan has no ``output``.
        """
        if "output" not in tp_plan:
            raise KeyError(f"The tensor-parallel plan must have an `output` entry; it has {sorted(tp_plan)}")
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.parallel import ColwiseParallel

        output = ColwiseParallel(input_layouts=Replicate(), output_layouts=Shard(-1), use_local_output=False)
        self.tp_enabled = True
        return {**tp_plan, "output": output}

    def set_model_output(self, model: nn.Module) -> None:
        """Make a model return its last hidden states, and take over its output projection."""
        model.skip_output_layer = True  # type: ignore[assignment]
        # Not as a submodule: the projection's parameters are the model's.
        object.__setattr__(self, "linear_projection", model.output)

    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> LinearCrossEntropyLoss:
        """Compile what is done to each chunk of logits."""
        self._step = torch.compile(_loss_and_gradient, *args, **kwargs)
        self.compute_cross_entropy = torch.compile(  # type: ignore[method-assign]
            self.compute_cross_entropy, *args, **kwargs
        )
        return self

    def compute_cross_entropy(
        self, hidden_chunk: Tensor, target_chunk: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """The sum of the cross entropy of one chunk, in fp32.

        Args:
            hidden_chunk (Tensor): ``[n, d]``.
            target_chunk (Tensor): ``[n]``.
            weights (Tensor | None): factors on the tokens' losses, ``[n]``.

        Raises:
            AttributeError: if ``set_model_output`` was not called.
        """
        if self.linear_projection is None:
            raise AttributeError(
                "Call loss.set_model_output(model) first: the loss needs the model's output projection"
            )
        logits = self.linear_projection(hidden_chunk)
        if self.tp_enabled:
            from torch.distributed.tensor import DTensor, Replicate

            if isinstance(logits, DTensor) and not isinstance(target_chunk, DTensor):
                placements = [Replicate()] * logits.device_mesh.ndim
                target_chunk = DTensor.from_local(target_chunk, logits.device_mesh, placements, run_check=False)
        return cross_entropy_sum(logits, target_chunk, self.ignore_index, weights)

    def mask_inputs(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that count, ``[m, d]`` and ``[m]``.

        Args:
            hidden (Tensor): ``[n, d]``.
            target (Tensor): ``[n]``.
        """
        keep = (target != self.ignore_index).nonzero().squeeze(1)
        from_mesh = getattr(hidden, "device_mesh", None)
        if from_mesh is not None:
            from torch.distributed.tensor import DTensor

            local = hidden.full_tensor().index_select(0, keep)  # type: ignore[attr-defined]
            return DTensor.from_local(local, from_mesh, run_check=False), target[keep]
        return hidden.index_select(0, keep), target[keep]

    def _plain_weight(self, hidden: Tensor) -> tuple[Tensor, _VocabularyPart | None] | None:
        """The projection's weight, if it is nothing but a matrix product; under tensor parallelism this rank's part."""
        projection = self.linear_projection
        if isinstance(projection, TiedLinear):
            weight, module = projection.weight, projection.linear
        elif type(projection) is nn.Linear and projection.bias is None:
            weight, module = projection.weight, projection
        else:
            return None
        if torch.is_autocast_enabled(hidden.device.type) or weight.dtype != hidden.dtype:
            return None
        if (vocabulary := _part_of_vocabulary(module, weight)) is not None:
            return (weight.to_local(), vocabulary) if _eager(hidden) else None  # type: ignore[attr-defined]
        hooked = bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        if hooked or self.tp_enabled or not _eager(hidden, weight):
            return None
        return weight, None

    def forward(self, outputs: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """The mean over tokens that count, by their weights, fp32; 0 if there are none.

        Args:
            outputs (Tensor): the model's last hidden states, after the norm, ``[b, s, d]``.
            weights (Tensor | None): factors on the tokens' losses, ``[b, s]``.
        """
        target = targets.reshape(-1)
        hidden = outputs.reshape(-1, outputs.shape[-1])
        factors = None if weights is None else weights.reshape(-1)
        total = total_weight(target, self.ignore_index, factors)
        if self.mask_ignored_tokens:
            factors = None if factors is None else factors[target != self.ignore_index]
            hidden, target = self.mask_inputs(hidden, target)
        if hidden.shape[0] == 0:
            return (outputs * 0).sum().float()  # part of the graph, so that backward() works
        plain = self._plain_weight(hidden)
        if plain is None:
            chunks = min(self.num_output_chunks, hidden.shape[0])
            parts = [None] * chunks if factors is None else factors.tensor_split(chunks)
            losses = [
                self.compute_cross_entropy(h, t, *([] if w is None else [w]))
                for h, t, w in zip(hidden.tensor_split(chunks), target.tensor_split(chunks), parts, strict=True)
            ]
            losses = [loss.full_tensor() if hasattr(loss, "full_tensor") else loss for loss in losses]
            return torch.stack(losses).sum() / total
        weight, vocabulary = plain
        counts = target != self.ignore_index
        grad = torch.is_grad_enabled()
        return _LinearCrossEntropy.apply(
            hidden,
            weight,
            target.where(counts, 0),
            counts if factors is None else factors.float() * counts,
            total.float().reciprocal(),
            self.num_output_chunks,
            (grad and hidden.requires_grad, grad and weight.requires_grad),
            self._step if vocabulary is None else _loss_and_gradient,
            vocabulary,
        )


def _part_of_vocabulary(module: nn.Module, weight: Tensor) -> _VocabularyPart | None:
    """Where the rows of a weight that tensor parallelism split lie; None for a weight that it didn't."""
    mesh = getattr(weight, "device_mesh", None)
    if mesh is None or mesh.ndim != 1:
        return None
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if isinstance(module, FSDPModule) or tuple(weight.placements) != (Shard(0),):  # type: ignore[attr-defined]
        return None
    _, offset = compute_local_shape_and_global_offset(weight.shape, mesh, weight.placements)  # type: ignore[attr-defined]
    return offset[0], mesh.get_group()
