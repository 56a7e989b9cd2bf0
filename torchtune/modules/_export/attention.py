"""Attention whose inputs are always both given."""

from __future__ import annotations

from torch import Tensor

from torchtune.modules.attention import MultiHeadAttention as _MultiHeadAttention
from torchtune.modules.attention_utils import _MaskType


class MultiHeadAttention(_MultiHeadAttention):
    """:class:`torchtune.modules.MultiHeadAttention` with ``y`` required, so that one graph is traced."""

    def forward(  # type: ignore[override]
        self, x: Tensor, y: Tensor, *, mask: _MaskType | None = None, input_pos: Tensor | None = None
    ) -> Tensor:
        """Attend from ``x`` to ``y``.

        Args:
            x (Tensor): what asks, ``[b, s, d]``.
            y (Tensor): what is looked at, ``[b, t, d]``.
            mask (_MaskType | None): as in the base class.
            input_pos (Tensor | None): position of each token.

        Returns:
            Tensor: ``[b, s, d]``.
        """
        return super().forward(x, y, mask=mask, input_pos=input_pos)
