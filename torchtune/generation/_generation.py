"""Sampling from a decoder, token by token, with or without a key-value cache."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchtune.modules.transformer import TransformerDecoder

#: A temperature below this counts as this one; sampling from it takes the likeliest token.
_MIN_TEMPERATURE = 1e-5


def multinomial_sample_one(probs: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Ids ``[..., 1]``, int32, drawn from ``probs [..., v]`` with noise ``q``, without synchronizing the device.

    The argmax of ``probs / q`` is distributed as ``probs`` where each ``q`` is an independent Exp(1) draw.
    """
    return torch.argmax(probs / q, dim=-1, keepdim=True).to(dtype=torch.int)


def sample(
    logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    q: torch.Tensor | None = None,
) -> torch.Tensor:
    """A token drawn from logits: ids ``[..., 1]``, int32.

    Args:
        logits: ``[..., v]``.
        temperature: what the logits are divided by; 0 means (almost surely) the likeliest token.
        top_k: draw only from the ``top_k`` likeliest tokens; those as likely as the last of them count too.
        q: Exp(1) noise ``[..., v]``; None: drawn from the default generator.

    Raises:
        ValueError: for a negative temperature, or a ``top_k`` below 1.
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"temperature is {temperature}, top_k {top_k}; expected a temperature from 0, a top_k from 1 or None"
        )
    logits = logits / max(temperature, _MIN_TEMPERATURE)
    if top_k is not None:
        kept = torch.topk(logits, min(top_k, logits.size(-1))).values
        logits = logits.masked_fill(logits < kept[..., -1:], float("-inf"))
    probs = torch.softmax(logits, dim=-1)
    if q is None:
        q = torch.empty_like(probs).exponential_(1)
    return multinomial_sample_one(probs, q)


def generate_next_token(
    model: TransformerDecoder,
    input_pos: torch.Tensor,
    x: torch.Tensor,
    q: torch.Tensor | None = None,
    *,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids ``[b, 1]`` drawn to follow the last position, and their logits ``[b, 1, v]``. See :func:`sample`.

    Args:
        model: the decoder.
        input_pos: positions of ``x``, ``[s]`` or ``[b, s]``.
        x: ids ``[b, s]``.
        q: noise to draw with, ``[b, v]``; see :func:`sample`.
        mask: ``[b, s, s]``, with a cache ``[b, s, cache length]``; True where a query may look.
    """
    logits = _last_logits(model(x, input_pos=input_pos, mask=mask))
    return sample(logits, temperature=temperature, top_k=top_k, q=q), logits.unsqueeze(1)


def _last_logits(output: Any) -> torch.Tensor:
    """Logits ``[b, v]`` of the last position; the output of a model may be cut into chunks of positions."""
    return (output[-1] if isinstance(output, (list, tuple)) else output)[:, -1]


def get_causal_mask_from_padding_mask(padding_mask: torch.Tensor, target_seq_len: int | None = None) -> torch.Tensor:
    """A causal mask ``[b, s, target_seq_len]`` that leaves out padding on either side; True where a query may look.

    Every position sees itself, padding too, so that no row of the attention is empty.

    Args:
        padding_mask: ``[b, s]``, False where there is padding.
        target_seq_len: number of keys, such as the length of a cache; those beyond ``s`` are hidden. Default: ``s``.

    Raises:
        AssertionError: if ``target_seq_len`` is less than ``s``.
    """
    bsz, seq_len = padding_mask.shape
    length = seq_len if target_seq_len is None else target_seq_len
    if length < seq_len:
        raise AssertionError(f"target_seq_len ({length}) must not be less than the length of the mask ({seq_len})")
    mask = torch.zeros(bsz, seq_len, length, dtype=torch.bool, device=padding_mask.device)
    mask[:, :, :seq_len] = padding_mask[:, None, :].bool()
    mask = mask.tril()
    mask.diagonal(dim1=1, dim2=2).fill_(True)
    return mask


def get_position_ids_from_padding_mask(padding_mask: torch.Tensor) -> torch.Tensor:
    """The positions ``[b, s]``, int32, from 0 at the first token after left padding; 0 for the padding itself.

    Args:
        padding_mask: ``[b, s]``, False where there is padding.
    """
    return ((padding_mask.cumsum(-1) - 1) * padding_mask).to(torch.int)


@torch.no_grad()
def generate(
    model: TransformerDecoder,
    prompt: torch.Tensor,
    *,
    max_generated_tokens: int,
    pad_id: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop_tokens: list[int] | None = None,
    rng: torch.Generator | None = None,
    compiled_generate_next_token: Callable[..., Any] | None = None,
    padding_mask: torch.Tensor | None = None,
    return_logits: bool = True,
    all_stopped: Callable[[torch.Tensor], bool] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Continue prompts, token by token.

    With caches set up (``model.setup_caches``) each step runs the model on one token; the caches must be empty
    (``model.reset_caches``) and hold prompt and generated tokens. Without, each step runs it on everything again.

    Args:
        model: the decoder.
        prompt: ids ``[b, s]`` or ``[s]``; shorter prompts are padded on the left.
        max_generated_tokens: at most as many tokens are generated.
        pad_id: id of the padding in ``prompt``.
        temperature: see :func:`sample`; 0 means greedy.
        top_k: see :func:`sample`; 1 means greedy.
        stop_tokens: ids that end a sequence; generation ends when every sequence has ended.
        rng: generator for the draws: one of ``[b, v]`` numbers for each generated token.
        compiled_generate_next_token: used instead of :func:`generate_next_token` for all tokens but the first; the
            shapes of its arguments stay the same then.
        padding_mask: ``[b, s]``, False where the prompt is padding. Default: ``prompt != pad_id``.
        return_logits: whether the logits are kept; they take ``b * n * v`` numbers.
        all_stopped: decides from a bool scalar "every sequence here has ended" whether to end; ranks that must run
            the model equally often pass a function that asks the others.

    Returns:
        the prompt with what was generated ``[b, s + n]``, 0 after a stop token, and the logits of the generated
        tokens ``[b, n, v]``, zero after a stop token (None without ``return_logits``).

    Raises:
        ValueError: if the caches do not hold prompt and generated tokens.
    """
    prompt = prompt.view(1, -1) if prompt.ndim == 1 else prompt
    padding_mask = prompt != pad_id if padding_mask is None else padding_mask
    frame = _Frame(model, padding_mask, max_generated_tokens, fixed_shapes=compiled_generate_next_token is not None)
    greedy = rng is None and (top_k == 1 or temperature == 0)
    stops = torch.tensor(stop_tokens or [], device=prompt.device, dtype=torch.long)
    stopped = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    tokens, kept_logits = [prompt], []
    with _last_position_only(model):
        for step in range(max_generated_tokens):
            x, input_pos, mask = frame.inputs(tokens, step)
            next_token = (step and compiled_generate_next_token) or generate_next_token
            if greedy and next_token is generate_next_token:
                with _products_for(x):
                    logits = _last_logits(model(x, input_pos=input_pos, mask=mask)).unsqueeze(1)
                token = logits.argmax(-1)
            else:
                # Tokens that only a fused model's embeddings have, such as that of an image, are never drawn.
                vocabulary = getattr(model.tok_embeddings, "embedding", model.tok_embeddings).num_embeddings
                noise = torch.empty((len(prompt), vocabulary), device=prompt.device)
                q = noise.exponential_(1, generator=rng)
                with _products_for(x):
                    given: dict[str, Any] = {"input_pos": input_pos, "x": x, "q": q, "mask": mask}
                    token, logits = next_token(model, **given, temperature=temperature, top_k=top_k)
            token = token.to(prompt.dtype)
            if return_logits:
                kept_logits.append(logits.masked_fill(stopped[:, None, None], 0.0) if stop_tokens else logits.clone())
            tokens.append(token.masked_fill(stopped[:, None], 0))
            if stop_tokens:
                stopped |= torch.isin(token[:, 0], stops)
                done = stopped.all()
                if all_stopped(done) if all_stopped else bool(done):
                    break
    return torch.cat(tokens, dim=1), torch.cat(kept_logits, dim=1) if kept_logits else None


@contextmanager
def _last_position_only(model: TransformerDecoder) -> Iterator[None]:
    """The model computes logits for the last position only: with a large vocabulary those of a prompt cost the most."""
    norm = getattr(model, "norm", None)
    compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    if norm is None or compiled:
        yield
        return
    handle = norm.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _products_for(x: torch.Tensor) -> Iterator[None]:
    """For one token on the CPU without oneDNN, whose product of a bf16 matrix and one vector takes twice as long as torch's."""
    if x.device.type != "cpu" or x.numel() != 1:
        yield
        return
    before = torch.backends.mkldnn.set_flags(False)[0]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before)


class _Frame:
    """What the model is given at each step: ids, positions and mask, without a mask of all steps at once."""

    def __init__(
        self, model: TransformerDecoder, padding_mask: torch.Tensor, max_generated_tokens: int, fixed_shapes: bool
    ) -> None:
        self.padded = not bool(padding_mask.all())
        self.prompt_mask = padding_mask
        self.prompt_len = padding_mask.shape[1]
        self.lengths = padding_mask.sum(-1, keepdim=True) if self.padded else None
        self.cached = model.caches_are_enabled()
        self.cache_len = model.decoder_max_cache_seq_len if self.cached else None
        self.fixed_shapes = fixed_shapes
        # The last token is never fed back, so its key and value need no place.
        needed = self.prompt_len + max(max_generated_tokens - 1, 0)
        if self.cache_len is not None and needed > self.cache_len:
            raise ValueError(
                f"The caches hold {self.cache_len} tokens, but the prompt has {self.prompt_len} and "
                f"{max_generated_tokens} are to be generated: set up caches with decoder_max_seq_len >= {needed}"
            )

    def inputs(self, tokens: list[torch.Tensor], step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Ids ``[b, s]``, positions and mask of a step; with caches only the newest token after the first step."""
        if step and self.cached:
            return tokens[-1], self._last_position(step), self._last_mask(step)
        x = tokens[0] if step == 0 else torch.cat(tokens, dim=1)
        if not self.padded:
            positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
            mask = get_causal_mask_from_padding_mask(torch.ones_like(x[:1], dtype=torch.bool), self._keys(step))
            return x, positions, mask.expand(x.shape[0], -1, -1)
        visible = self._visible(step)
        mask = get_causal_mask_from_padding_mask(visible, self._keys(step))
        return x, get_position_ids_from_padding_mask(visible), mask

    def _keys(self, step: int) -> int:
        """Number of keys the mask speaks of."""
        return self.cache_len if self.cache_len is not None else self.prompt_len + step

    def _visible(self, step: int) -> torch.Tensor:
        generated = self.prompt_mask.new_ones(len(self.prompt_mask), step)
        return torch.cat([self.prompt_mask, generated], dim=1)

    def _last_position(self, step: int) -> torch.Tensor:
        if self.lengths is not None:
            return (self.lengths + (step - 1)).to(torch.int)
        position = torch.tensor([[self.prompt_len + step - 1]], device=self.prompt_mask.device)
        return position.expand(len(self.prompt_mask), -1)

    def _last_mask(self, step: int) -> torch.Tensor:
        keys = self._keys(step)
        mask = self.prompt_mask.new_zeros(len(self.prompt_mask), 1, keys)
        mask[:, 0, : self.prompt_len + step] = self._visible(step)
        return mask
