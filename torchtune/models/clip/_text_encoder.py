"""CLIP's text encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchtune.modules import FeedForward, MultiHeadAttention, TransformerSelfAttentionLayer


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 * x)``, the approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """``[...] -> [...]``."""
        return x * torch.sigmoid(1.702 * x)


class CLIPTextEncoder(nn.Module):
    """A causal transformer whose last token stands for the text.

    Args:
        vocab_size (int): number of tokens.
        max_seq_len (int): longest input.
        embed_dim (int): size of a token's vector.
        num_heads (int): attention heads.
        num_layers (int): number of layers.
        norm_eps (float): epsilon of the norms.

    Source: https://arxiv.org/abs/2103.00020 (CLIP)
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.layers = nn.ModuleList(
            TransformerSelfAttentionLayer(
                attn=MultiHeadAttention(
                    embed_dim=embed_dim,
                    num_heads=num_heads,
                    num_kv_heads=num_heads,
                    head_dim=embed_dim // num_heads,
                    q_proj=nn.Linear(embed_dim, embed_dim),
                    k_proj=nn.Linear(embed_dim, embed_dim),
                    v_proj=nn.Linear(embed_dim, embed_dim),
                    output_proj=nn.Linear(embed_dim, embed_dim),
                    max_seq_len=max_seq_len,
                ),
                mlp=FeedForward(
                    gate_proj=nn.Linear(embed_dim, 4 * embed_dim),
                    down_proj=nn.Linear(4 * embed_dim, embed_dim),
                    activation=QuickGELU(),
                ),
                sa_norm=nn.LayerNorm(embed_dim, eps=norm_eps),
                mlp_norm=nn.LayerNorm(embed_dim, eps=norm_eps),
            )
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.token_embedding = nn.Embedding(vocab_size, embed_dim)
        self.position_embedding = nn.Parameter(torch.empty(max_seq_len, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        """The vector of the first end token, which has the largest id, of each text: ``[b, s] -> [b, d]``."""
        batch, length = tokens.shape
        if length > self.max_seq_len:
            raise ValueError(
                f"seq_len ({length}) of input tensor should be smaller than max_seq_len ({self.max_seq_len})"
            )
        x = self.token_embedding(tokens) + self.position_embedding[:length]
        for layer in self.layers:
            x = layer(x)
        return self.final_norm(x)[torch.arange(batch, device=x.device), tokens.argmax(dim=-1)]
