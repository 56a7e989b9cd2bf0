"""The encoder of T5 v1.1: relative position biases, no scaling of attention scores."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from torchtune.modules import FeedForward, RMSNorm


class T5RelativePositionBias(nn.Module):
    """Learned bias of attention scores, by the bucket that the distance of two tokens falls into.

    Half of the buckets are for tokens ahead; in each half, the first half of the buckets is for one distance each, the rest
    grows logarithmically up to ``max_dist``.

    Source: https://arxiv.org/abs/1910.10683 (T5), section 2.1
    """

    def __init__(self, num_buckets: int, max_dist: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_dist = num_buckets, max_dist
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def _buckets(self, length: int, device: torch.device) -> torch.Tensor:
        positions = torch.arange(length, device=device)
        offset = positions[None, :] - positions[:, None]
        half = self.num_buckets // 2
        exact = half // 2
        distance = offset.abs()
        scale = (half - exact) / math.log(self.max_dist / exact)
        far = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).long()
        return torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (offset > 0)

    def forward(self, length: int) -> torch.Tensor:
        """The bias of all pairs of tokens ``[1, n_h, s, s]``."""
        return self.embedding(self._buckets(length, self.embedding.weight.device)).permute(2, 0, 1)[None]


class T5SelfAttention(nn.Module):
    """Bidirectional self-attention with an additive bias."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False)
        self.output_proj = nn.Linear(num_heads * head_dim, embed_dim, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``[b, s, d] -> [b, s, d]``; ``bias`` (``[1 or b, n_h, s, s]``) is added to the scores."""
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        return self.output_proj(attended.transpose(1, 2).flatten(2))


class T5EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and beside a residual."""

    def __init__(self, attn: T5SelfAttention, mlp: FeedForward, sa_norm: nn.Module, mlp_norm: nn.Module) -> None:
        super().__init__()
        self.attn, self.mlp, self.sa_norm, self.mlp_norm = attn, mlp, sa_norm, mlp_norm

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``[b, s, d]`` and the bias ``[1 or b, n_h, s, s]`` to ``[b, s, d]``."""
        x = x + self.attn(self.sa_norm(x), bias)
        return x + self.mlp(self.mlp_norm(x))


class T5Encoder(nn.Module):
    """The encoder of T5 v1.1.

    Args:
        vocab_size (int): number of tokens.
        embed_dim (int): size of a token's vector.
        mlp_dim (int): hidden size of the feed-forward layers.
        num_heads (int): attention heads.
        head_dim (int): size of a head.
        num_layers (int): number of layers.
        rel_pos_num_buckets (int): buckets of the relative position bias.
        rel_pos_max_dist (int): distance that the last bucket starts from.
        norm_eps (float): epsilon of the norms.
        max_seq_len (int): longest input.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        embed_dim: int,
        mlp_dim: int,
        num_heads: int,
        head_dim: int,
        num_layers: int,
        rel_pos_num_buckets: int,
        rel_pos_max_dist: int,
        norm_eps: float,
        max_seq_len: int,
    ) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.token_embedding = nn.Embedding(vocab_size, embed_dim)
        self.final_norm = RMSNorm(embed_dim, eps=norm_eps)
        self.relative_position_bias = T5RelativePositionBias(rel_pos_num_buckets, rel_pos_max_dist, num_heads)
        self.layers = nn.ModuleList(
            T5EncoderLayer(
                attn=T5SelfAttention(embed_dim, num_heads, head_dim),
                mlp=FeedForward(
                    gate_proj=nn.Linear(embed_dim, mlp_dim, bias=False),
                    down_proj=nn.Linear(mlp_dim, embed_dim, bias=False),
                    up_proj=nn.Linear(embed_dim, mlp_dim, bias=False),
                    activation=nn.GELU(approximate="tanh"),
                ),
                sa_norm=RMSNorm(embed_dim, eps=norm_eps),
                mlp_norm=RMSNorm(embed_dim, eps=norm_eps),
            )
            for _ in range(num_layers)
        )

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Encode token ids: ``[b, s] -> [b, s, d]``.

        ``mask`` is ``[b, s]``, True for tokens to attend to; None attends to all, padding too.
        """
        length = tokens.shape[1]
        if length > self.max_seq_len:
            raise ValueError(
                f"seq_len ({length}) of input tensor should be smaller than max_seq_len ({self.max_seq_len})"
            )
        x, bias = self.token_embedding(tokens), self.relative_position_bias(length)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None, :], torch.finfo(bias.dtype).min)
        for layer in self.layers:
            x = layer(x, bias)
        return self.final_norm(x)
