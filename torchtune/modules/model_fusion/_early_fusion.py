"""A decoder whose input is made of text tokens and encoders' outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.attention_utils import _MaskType
from torchtune.modules.model_fusion._base import _FusionModel
from torchtune.modules.model_fusion._fusion_layers import get_fusion_params
from torchtune.modules.peft import set_trainable_params
from torchtune.modules.transformer import TransformerDecoder


class EarlyFusionModel(_FusionModel):
    """Encoders, and a decoder in whose input special tokens are replaced by the encoders' outputs.

    ``requires_grad`` of all parameters is set.

    Args:
        decoder (TransformerDecoder): the decoder.
        encoders (dict[str, nn.Module]): encoders by name.
        encoder_tokens (dict[str, int]): the token that stands for one output of each encoder.
        decoder_trainable (bool): train the decoder.
        encoders_trainable (bool | dict[str, bool]): train the encoders; one value for all, or one each.
        fusion_trainable (bool): train modules with ``fusion_params``, wherever they are.

    Raises:
        ValueError: if the names of encoders, tokens and ``encoders_trainable`` aren't the same.
    """

    def __init__(
        self,
        decoder: TransformerDecoder,
        encoders: dict[str, nn.Module],
        encoder_tokens: dict[str, int],
        decoder_trainable: bool = False,
        encoders_trainable: bool | dict[str, bool] = False,
        fusion_trainable: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(encoders_trainable, dict):
            encoders_trainable = dict.fromkeys(encoders, encoders_trainable)
        if not encoders.keys() == encoder_tokens.keys() == encoders_trainable.keys():
            raise ValueError(
                f"encoders ({sorted(encoders)}), encoder_tokens ({sorted(encoder_tokens)}) and encoders_trainable "
                f"({sorted(encoders_trainable)}) must have the same names"
            )
        self.decoder = decoder
        self.encoders = nn.ModuleDict(encoders)
        self.encoder_tokens = encoder_tokens
        fusion = set(get_fusion_params(self))

        def wanted(name: str) -> bool:
            if name in fusion:
                return fusion_trainable
            part, encoder = name.split(".")[:2]
            return decoder_trainable if part == "decoder" else encoders_trainable[encoder]

        set_trainable_params(self, {name for name, _ in self.named_parameters() if wanted(name)})

    def _fused(self, tokens: Tensor, encoder_input: dict[str, dict[str, Any]]) -> Tensor:
        """Embeddings of the text with the encoders' outputs in their places, ``[b, s, d]``."""
        unknown = sorted(set(encoder_input) - set(self.encoders))
        if unknown:
            raise ValueError(f"encoder_input has {unknown}, but the model's encoders are {sorted(self.encoders)}")
        places = {name: tokens == token for name, token in self.encoder_tokens.items()}
        anywhere = torch.stack(list(places.values())).any(dim=0)
        # The special tokens may lie beyond the embedding: any row will do, it is replaced.
        fused = self.decoder.tok_embeddings(tokens.masked_fill(anywhere, 0))
        for name, inputs in encoder_input.items():
            place = places[name]
            outputs = self.encoders[name](**inputs)
            outputs = outputs.reshape(tokens.shape[0], -1, outputs.shape[-1]).to(fused.dtype)
            wanted, there = int(place.sum(dim=1).max()), outputs.shape[1]
            if wanted > there:
                raise ValueError(
                    f"A sample has {wanted} tokens for outputs of encoder {name!r}, which gave {there}. "
                    "Was the sample truncated, or made with another transform?"
                )
            index = (place.cumsum(dim=1) - 1).clamp(min=0)
            chosen = outputs.gather(1, index.unsqueeze(-1).expand(-1, -1, outputs.shape[-1]))
            fused = torch.where(place.unsqueeze(-1), chosen, fused)
        return fused

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: _MaskType | None = None,
        encoder_input: dict[str, dict[str, Any]] | None = None,
        input_pos: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | list[Tensor]:
        """What the decoder returns: logits ``[b, s, v]``.

        Args:
            tokens (Tensor): token ids ``[b, s]``, with an encoder's token for each of its outputs.
            mask (_MaskType | None): which tokens each one sees.
            encoder_input (dict[str, dict[str, Any]] | None): arguments of each encoder.
            input_pos (Tensor | None): position of each token.

        Raises:
            ValueError: for an unknown encoder, or more tokens than encoder outputs.
        """
        if not encoder_input:
            return self.decoder(tokens, mask=mask, input_pos=input_pos)
        return self.decoder(None, mask=mask, input_pos=input_pos, input_embeds=self._fused(tokens, encoder_input))
