"""From conversations to parsed answers: prompts, batches, caches and the reading back of tool calls."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch

from torchtune.generation._generation import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torchtune.data._message import Message
    from torchtune.data.formats._base import ParsedMessage
    from torchtune.modules.transformer import TransformerDecoder


class PromptTokenizer(Protocol):
    """What generating from conversations needs of a tokenizer; every model tokenizer has it."""

    official_stop_tokens: list[int]

    def prompt_tokens(self, messages: list[Message], *, tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The ids after which the model answers."""

    def parse_tokens(self, ids: list[int]) -> ParsedMessage:
        """The answer, read back from its ids."""


def generate_messages(
    model: TransformerDecoder,
    tokenizer: PromptTokenizer,
    conversations: Sequence[Mapping[str, Any]],
    *,
    max_generated_tokens: int = 512,
    batch_size: int = 8,
    temperature: float = 0.0,
    top_k: int | None = None,
    rng: torch.Generator | None = None,
) -> list[ParsedMessage]:
    """The answers of a model to conversations, in order, read back, tool calls included. See :func:`generate_tokens`.

    Args:
        model: the decoder.
        tokenizer: its model tokenizer; writes the prompts in the family's official format.
        conversations: samples as message transforms make them: ``{"messages": [Message, ...], "tools": [...]}``,
            ``tools`` only where there are any.

    Raises:
        ValueError: if a prompt is as long as the model's ``max_seq_len``, with the index of the conversation.
    """
    prompts = [tokenizer.prompt_tokens(c["messages"], tools=c.get("tools") or None) for c in conversations]
    outputs = generate_tokens(
        model,
        prompts,
        stop_tokens=tokenizer.official_stop_tokens,
        max_generated_tokens=max_generated_tokens,
        batch_size=batch_size,
        temperature=temperature,
        top_k=top_k,
        rng=rng,
    )
    return [tokenizer.parse_tokens(ids) for ids in outputs]


@torch.no_grad()
def generate_tokens(
    model: TransformerDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    stop_tokens: Sequence[int],
    max_generated_tokens: int,
    batch_size: int = 8,
    temperature: float = 0.0,
    top_k: int | None = None,
    rng: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    group: Any = None,
) -> list[list[int]]:
    """The ids that continue each prompt, a stop token included, with a cache for the time. See :func:`generate`.

    Args:
        model: the decoder. It is put into eval mode and back; a model that is set up for a chunked or fused loss gives
            its logits meanwhile.
        prompts: ids of each prompt.
        stop_tokens: ids that end an answer.
        max_generated_tokens: at most as many tokens each, and no more than the model has positions for.
        batch_size: prompts continued at once.
        dtype: of the cache. Default: that of the embeddings.
        group: process group whose ranks share one sharded model (FSDP), each with prompts of its own; then all ranks
            run the model equally often.

    Raises:
        ValueError: if a prompt is empty or as long as the model's ``max_seq_len``.
    """
    room = getattr(model, "max_seq_len", None)
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"Prompt {i} is empty: there is nothing to continue")
        if room is not None and len(prompt) >= room:
            raise ValueError(f"Prompt {i} has {len(prompt)} tokens, but the model takes {room} with the answer")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    device = next(model.parameters()).device
    batches += [[]] * (_most(len(batches), group, device) - len(batches))
    outputs: list[list[int]] = [[] for _ in prompts]
    with _answering(model):
        for batch in batches:
            # A rank that has no prompts left still takes part, on a prompt of one token.
            ids = [prompts[i] for i in batch] or [[0]]
            longest = max(map(len, ids))
            count = max_generated_tokens if room is None else min(max_generated_tokens, room - longest)
            count = _most(count, group, device) if room is None else -_most(-count, group, device)
            tokens, padding_mask = _left_padded(ids, device)
            kept = dtype or next(model.tok_embeddings.parameters()).dtype
            with _kv_cache(model, len(ids), longest + count, device, kept):
                out, _ = generate(
                    model,
                    tokens,
                    max_generated_tokens=count,
                    temperature=temperature,
                    top_k=top_k,
                    stop_tokens=list(stop_tokens),
                    rng=rng,
                    padding_mask=padding_mask,
                    return_logits=False,
                    all_stopped=_everywhere(group),
                )
            for i, answer in zip(batch, out[:, longest:].tolist(), strict=False):
                outputs[i] = _until_stop(answer, stop_tokens)
    return outputs


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and padding mask ``[b, s]``."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = True
    return tokens.to(device), mask.to(device)


def _until_stop(ids: list[int], stop_tokens: Sequence[int]) -> list[int]:
    stops = set(stop_tokens)
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]


def _kv_cache(
    model: TransformerDecoder, batch_size: int, length: int, device: torch.device, dtype: torch.dtype
) -> AbstractContextManager[None]:
    """A cache for the time of a batch; none where the model has one of its own."""
    from torchtune.modules.common_utils import local_kv_cache

    if model.caches_are_setup():
        model.reset_caches()
        return nullcontext()
    return local_kv_cache(model, batch_size=batch_size, device=device, dtype=dtype, decoder_max_seq_len=length)


@contextmanager
def _answering(model: TransformerDecoder) -> Iterator[None]:
    """A model in eval mode that gives logits, whatever loss it is set up for; afterwards as before."""
    wanted = {"skip_output_layer": False, "num_output_chunks": 0}
    training, before = model.training, {name: getattr(model, name) for name in wanted if hasattr(model, name)}
    for name in before:
        setattr(model, name, wanted[name])
    model.eval()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)
        model.train(training)


def _most(count: int, group: Any, device: torch.device) -> int:
    """The largest ``count`` of all ranks of the group; without a group the own one."""
    if group is None:
        return count
    largest = torch.tensor(count, device=device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=group)
    return int(largest)


def _everywhere(group: Any) -> Callable[[torch.Tensor], bool] | None:
    """Whether every sequence has ended on all ranks of the group."""
    if group is None:
        return None

    def all_stopped(here: torch.Tensor) -> bool:
        running = (~here).to(torch.int32)
        torch.distributed.all_reduce(running, op=torch.distributed.ReduceOp.MAX, group=group)
        return not bool(running)

    return all_stopped
