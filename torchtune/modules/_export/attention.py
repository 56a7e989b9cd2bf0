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
        """Attend from ``x`` to ``y``; see :class:`torchtune.modules.MultiHeadAttention`."""
        return super().forward(x, y, mask=mask, input_pos=input_pos)
