"""Losses of knowledge distillation: divergences between a student's and a teacher's distributions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules.loss.ce_chunked_output_loss import split_labels


class _TokenLoss(nn.Module):
    """A loss per token, summed or averaged over the tokens whose label isn't ignored.

    Args:
        ignore_index (int): label of tokens that don't count.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def _per_token(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, normalize: bool = True) -> Tensor:
        """The loss, in fp32; 0 if no token counts.

        Args:
            student_logits (Tensor): ``[b, s, v]``; an infinite logit leaves its token of the vocabulary out.
            teacher_logits (Tensor): ``[b, s, v]``.
            labels (Tensor): ``[b, s]``; only whether they are ignored matters.
            normalize (bool): the mean over tokens that count, not the sum.
        """
        counts = labels.reshape(-1) != self.ignore_index
        loss = self._per_token(student_logits, teacher_logits).reshape(-1).masked_fill(~counts, 0.0).sum()
        return loss / counts.sum().clamp(min=1) if normalize else loss


class ForwardKLLoss(_TokenLoss):
    """Cross entropy of the student under the teacher: the forward KL divergence without the teacher's own entropy.

    Source: https://arxiv.org/abs/2402.03898 (DistiLLM), equation 2.
    """

    def _per_token(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        teacher = F.softmax(teacher_logits.float(), dim=-1)
        student = F.log_softmax(student_logits.float(), dim=-1)
        return -(teacher * student).masked_fill(torch.isinf(student_logits), 0.0).sum(dim=-1)


class ReverseKLLoss(_TokenLoss):
    """KL divergence of the teacher from the student. Source: https://arxiv.org/abs/2306.08543 (MiniLLM)."""

    def _per_token(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        student = F.log_softmax(student_logits.float(), dim=-1)
        teacher = F.log_softmax(teacher_logits.float(), dim=-1)
        absent = torch.isinf(student_logits) | torch.isinf(teacher_logits)
        return (student.exp() * (student - teacher)).masked_fill(absent, 0.0).sum(dim=-1)


class SymmetricKLLoss(nn.Module):
    """``ratio`` times the forward loss and ``1 - ratio`` times the reverse one.

    Args:
        sym_kd_ratio (float): in [0, 1]; 1 is the forward loss.
        ignore_index (int): label of tokens that don't count.

    Raises:
        ValueError: if the ratio is out of range.
    """

    def __init__(self, sym_kd_ratio: float = 0.5, ignore_index: int = -100) -> None:
        super().__init__()
        if not 0.0 <= sym_kd_ratio <= 1.0:
            raise ValueError(f"sym_kd_ratio must be between 0.0 and 1.0, not {sym_kd_ratio}")
        self.ignore_index = ignore_index
        self.sym_kd_ratio = sym_kd_ratio
        self._fkl = ForwardKLLoss(ignore_index)
        self._rkl = ReverseKLLoss(ignore_index)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, normalize: bool = True) -> Tensor:
        """The loss, in fp32; see :meth:`ForwardKLLoss.forward`."""
        forward = self._fkl(student_logits, teacher_logits, labels, normalize)
        reverse = self._rkl(student_logits, teacher_logits, labels, normalize)
        return self.sym_kd_ratio * forward + (1 - self.sym_kd_ratio) * reverse


class _ChunkedLoss(nn.Module):
    """One of the losses above, of logits that come in pieces.

    Args:
        num_output_chunks (int): pieces that the models are to return.
        ignore_index (int): label of tokens that don't count.
    """

    loss: nn.Module

    def __init__(self, num_output_chunks: int, ignore_index: int) -> None:
        super().__init__()
        self.num_output_chunks = num_output_chunks
        self.ignore_index = ignore_index

    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> _ChunkedLoss:
        """Compile the loss of one piece; see :meth:`SFTLoss.apply_compile_strategy`."""
        self.loss = torch.compile(self.loss, *args, **kwargs)  # type: ignore[assignment]
        return self

    def forward(self, student_logits: list[Tensor], teacher_logits: list[Tensor], labels: Tensor) -> Tensor:
        """The mean over tokens that count, one piece upcast at a time; 0 if there are none.

        Args:
            student_logits (list[Tensor]): pieces ``[b, c, v]`` along the sequence.
            teacher_logits (list[Tensor]): pieces of the same lengths.
            labels (Tensor): ``[b, s]``; only whether they are ignored matters.
        """
        total = (labels != self.ignore_index).sum().clamp(min=1)
        pieces = zip(student_logits, teacher_logits, split_labels(labels, student_logits), strict=True)
        return torch.stack([self.loss(*piece, normalize=False) for piece in pieces]).sum() / total


class ForwardKLWithChunkedOutputLoss(_ChunkedLoss):
    """:class:`ForwardKLLoss` of logits in pieces."""

    def __init__(self, num_output_chunks: int = 8, ignore_index: int = -100) -> None:
        super().__init__(num_output_chunks, ignore_index)
        self.loss = ForwardKLLoss(ignore_index)


class ReverseKLWithChunkedOutputLoss(_ChunkedLoss):
    """:class:`ReverseKLLoss` of logits in pieces."""

    def __init__(self, num_output_chunks: int = 8, ignore_index: int = -100) -> None:
        super().__init__(num_output_chunks, ignore_index)
        self.loss = ReverseKLLoss(ignore_index)


class SymmetricKLWithChunkedOutputLoss(_ChunkedLoss):
    """:class:`SymmetricKLLoss` of logits in pieces.

    Args:
        sym_kd_ratio (float): in [0, 1]; 1 is the forward loss.

    Raises:
        ValueError: if the ratio is out of range.
    """

    def __init__(self, num_output_chunks: int = 8, sym_kd_ratio: float = 0.5, ignore_index: int = -100) -> None:
        super().__init__(num_output_chunks, ignore_index)
        self.sym_kd_ratio = sym_kd_ratio
        self.loss = SymmetricKLLoss(sym_kd_ratio, ignore_index)
