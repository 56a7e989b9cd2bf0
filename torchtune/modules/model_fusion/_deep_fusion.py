"""A decoder that attends to an encoder's output in some of its layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torchtune.modules.attention_utils import _MaskType
from torchtune.modules.model_fusion._base import _FusionModel
from torchtune.modules.model_fusion._fusion_layers import get_fusion_params
from torchtune.modules.peft import set_trainable_params
from torchtune.modules.transformer import TransformerDecoder


class DeepFusionModel(_FusionModel):
    """An encoder, and a decoder whose fusion layers attend to its output (Flamingo, https://arxiv.org/abs/2204.14198).

    ``requires_grad`` of all parameters is set.

    Args:
        decoder (TransformerDecoder): with :class:`FusionLayer` layers.
        encoder (nn.Module): called with what ``encoder_input`` holds.
        decoder_trainable (bool): train the decoder.
        encoder_trainable (bool): train the encoder.
        fusion_trainable (bool): train the fusion layers, of either.
    """

    def __init__(
        self,
        decoder: TransformerDecoder,
        encoder: nn.Module,
        *,
        decoder_trainable: bool = False,
        encoder_trainable: bool = False,
        fusion_trainable: bool = True,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.encoder = encoder
        fusion = set(get_fusion_params(self))
        chosen = {"decoder": decoder_trainable, "encoder": encoder_trainable}
        trainable = {
            name
            for name, _ in self.named_parameters()
            if (fusion_trainable if name in fusion else chosen[name.split(".")[0]])
        }
        set_trainable_params(self, trainable)

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: _MaskType | None = None,
        encoder_input: dict[str, Any] | None = None,
        encoder_mask: Tensor | None = None,
        input_pos: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """What the decoder returns: logits ``[b, s, v]``.

        Args:
            tokens (Tensor): token ids ``[b, s]``.
            mask (_MaskType | None): which tokens each one sees.
            encoder_input (dict[str, Any] | None): arguments of the encoder; None uses what the KV caches hold.
            encoder_mask (Tensor | None): ``[b, s, t]``, which encoder outputs each token sees.
            input_pos (Tensor | None): position of each token.
        """
        return self.decoder(
            tokens,
            mask=mask,
            encoder_input=None if encoder_input is None else self.encoder(**encoder_input),
            encoder_mask=encoder_mask,
            input_pos=input_pos,
        )
