"""From sampled sequences and logits to log-probabilities."""

from __future__ import annotations

import torch


def truncate_sequence_at_first_stop_token(
    sequences: torch.Tensor, stop_tokens: torch.Tensor, fill_value: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask that is True after a row's first stop token, and the ids with a fill value there.

    Args:
        sequences: ids ``[b, s]`` or ``[s]``; they stay as they are.
        stop_tokens: ids ``[n]``.
        fill_value: what is written after the stop token.
    """
    stops = torch.isin(sequences, stop_tokens.to(sequences.device))
    after = (stops.cumsum(-1) - stops.long()) > 0
    return after, sequences.masked_fill(after, fill_value)


def logits_to_logprobs(logits: torch.Tensor, sequences: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The log-probability ``[b, r]`` of each token.

    Args:
        logits: ``[b, r, v]``, at each position those that its token is drawn from.
        sequences: ids ``[b, r]``.
        temperature: what the logits are divided by.
    """
    scaled = logits if temperature == 1.0 else logits / temperature
    # log_softmax of the one token, without a second tensor of the size of the logits
    chosen = scaled.gather(-1, sequences.unsqueeze(-1)).squeeze(-1)
    return chosen - scaled.logsumexp(-1)


def batched_logits_to_logprobs(
    logits: torch.Tensor, sequences: torch.Tensor, temperature: float = 1.0, chunk_size: int = 4
) -> torch.Tensor:
    """The log-probabilities of :func:`logits_to_logprobs`, a few rows at a time, for less memory.

    Args:
        logits: ``[b, s, v]``.
        sequences: ids ``[b, s]``.
        temperature: what the logits are divided by.
        chunk_size: rows at a time.
    """
    if logits.shape[0] == 0:
        return logits_to_logprobs(logits, sequences, temperature)
    pairs = zip(logits.split(chunk_size), sequences.split(chunk_size), strict=True)
    return torch.cat([logits_to_logprobs(chunk, ids, temperature) for chunk, ids in pairs])


def get_batch_log_probs(
    logits: torch.FloatTensor,
    labels: torch.LongTensor,
    label_pad_token_id: int = -100,
    return_average_logprobs: bool = False,
) -> torch.FloatTensor:
    """The log-probability ``[b]`` of each row's labels.

    Args:
        logits: ``[b, s, v]``.
        labels: ids ``[b, s]``, not shifted: label ``i`` is token ``i``, which the logits before it predict.
        label_pad_token_id: label of what doesn't count.
        return_average_logprobs: the mean over a row's labels in place of their sum.

    Raises:
        ValueError: if the shapes differ.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"Logits (batch and sequence length dim) and labels must have the same shape: found {tuple(logits.shape)} "
            f"and {tuple(labels.shape)}"
        )
    targets = labels[:, 1:]
    counted = targets != label_pad_token_id
    per_token = logits_to_logprobs(logits[:, :-1], targets.masked_fill(~counted, 0)).masked_fill(~counted, 0.0)
    summed = per_token.sum(-1)
    return summed / counted.sum(-1).clamp(min=1) if return_average_logprobs else summed  # type: ignore[return-value]


def truncate_sequence_for_logprobs(query_response_logits: torch.Tensor, context_length: int) -> torch.Tensor:
    """The logits ``[b, s - context_length, v]`` that a response is drawn from.

    Args:
        query_response_logits: ``[b, s, v]`` of query and response.
        context_length: length of the query.
    """
    return query_response_logits[:, context_length - 1 : -1]
