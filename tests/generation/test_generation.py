"""Tests of sampling and of the generation loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchtune.generation import (
    generate,
    generate_next_token,
    get_causal_mask_from_padding_mask,
    get_position_ids_from_padding_mask,
    sample,
)
from torchtune.models.llama3 import llama3
from torchtune.modules import local_kv_cache

PROMPTS = torch.tensor([[3, 7, 11, 2], [5, 1, 9, 8]])


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    built = llama3(
        vocab_size=23, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=16, max_seq_len=32, intermediate_dim=24
    )
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.eval()


def cached(model: Any, length: int = 12, batch_size: int = 2) -> Any:
    return local_kv_cache(
        model,
        batch_size=batch_size,
        device=torch.device("cpu"),
        dtype=torch.float32,
        decoder_max_seq_len=length,
    )


def test_sampling_follows_the_probabilities() -> None:
    torch.manual_seed(1)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    draws = torch.cat([sample(logits) for _ in range(4000)])
    assert draws.dtype == torch.int32
    found = torch.bincount(draws, minlength=4) / 4000
    assert torch.allclose(found, logits.softmax(-1), atol=0.03)


def test_top_k_draws_from_the_likeliest_only() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    draws = {int(sample(logits, temperature=5.0, top_k=2)) for _ in range(200)}
    assert draws == {1, 2}
    assert {int(sample(logits, top_k=99, temperature=9.0)) for _ in range(200)} == {0, 1, 2, 3}


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(5, 50)
    assert torch.equal(sample(logits, temperature=0.0), logits.argmax(-1, keepdim=True).int())


def test_given_noise_decides() -> None:
    logits = torch.zeros(1, 4)
    assert sample(logits, q=torch.tensor([[1.0, 1.0, 0.1, 1.0]])).tolist() == [[2]]


def test_padding_is_left_out_of_mask_and_positions() -> None:
    padding = torch.tensor([[False, False, True, True], [True, True, True, True]])
    mask = get_causal_mask_from_padding_mask(padding, target_seq_len=6)
    assert mask[0].int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert torch.equal(mask[1, :, :4], torch.ones(4, 4).tril().bool())
    assert get_position_ids_from_padding_mask(padding).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    with pytest.raises(AssertionError, match=r"target_seq_len \(2\) must not be less"):
        get_causal_mask_from_padding_mask(padding, target_seq_len=2)


def test_the_next_token_comes_from_the_last_position(model: Any) -> None:
    positions = torch.arange(4)
    token, logits = generate_next_token(model, positions, PROMPTS, temperature=0.0)
    expected = model(PROMPTS)[:, -1:]
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.equal(token.long(), expected.argmax(-1))


def test_greedy_generation_repeats_the_whole_forward_pass(model: Any) -> None:
    tokens, logits = generate(model, PROMPTS, max_generated_tokens=6, temperature=0.0)
    expected = PROMPTS
    for step in range(6):
        full = model(expected)[:, -1:]
        assert torch.allclose(logits[:, step : step + 1], full, atol=1e-5)
        expected = torch.cat([expected, full.argmax(-1)], dim=1)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.8, "top_k": 5}])
def test_a_cache_changes_nothing(model: Any, padded: bool, options: dict[str, Any]) -> None:
    prompts = PROMPTS.clone()
    if padded:
        prompts[0, :2] = 0
    plain, plain_logits = generate(
        model, prompts, max_generated_tokens=8, rng=torch.Generator().manual_seed(3), **options
    )
    with cached(model):
        tokens, logits = generate(
            model, prompts, max_generated_tokens=8, rng=torch.Generator().manual_seed(3), **options
        )
    assert torch.equal(tokens, plain)
    assert torch.allclose(logits, plain_logits, atol=1e-4)


def test_a_prompt_gives_the_same_padded_in_a_batch_and_alone(model: Any) -> None:
    batch = torch.tensor([[0, 0, 11, 2], [5, 1, 9, 8]])
    with cached(model):
        tokens, _ = generate(model, batch, max_generated_tokens=5, temperature=0.0)
    alone, _ = generate(model, torch.tensor([11, 2]), max_generated_tokens=5, temperature=0.0)
    assert tokens[0, 2:].tolist() == alone[0].tolist()


def test_a_pad_id_inside_a_prompt_counts_where_a_mask_says_so(model: Any) -> None:
    prompt = torch.tensor([[3, 0, 11, 2]])
    masked, _ = generate(
        model, prompt, max_generated_tokens=4, temperature=0.0, padding_mask=torch.ones(1, 4, dtype=torch.bool)
    )
    other_pad, _ = generate(model, prompt, max_generated_tokens=4, temperature=0.0, pad_id=22)
    assert torch.equal(masked, other_pad)


@pytest.mark.parametrize("stop_of", [(0, 4), (1, 6), (0, 7)])
def test_after_a_stop_token_tokens_and_logits_are_zero(model: Any, stop_of: tuple[int, int]) -> None:
    free, free_logits = generate(model, PROMPTS, max_generated_tokens=6, temperature=0.0)
    stop = int(free[stop_of])
    ends = [(row.tolist().index(stop) if stop in row else 5) + 1 for row in free[:, 4:]]
    tokens, logits = generate(model, PROMPTS, max_generated_tokens=6, temperature=0.0, stop_tokens=[stop], pad_id=22)
    assert tokens.shape[1] == 4 + max(ends)
    for row, end in enumerate(ends):
        assert torch.equal(tokens[row, : 4 + end], free[row, : 4 + end]) and not tokens[row, 4 + end :].any()
        assert torch.allclose(logits[row, :end], free_logits[row, :end], atol=1e-5) and not logits[row, end:].any()


def test_generation_ends_when_every_sequence_has_stopped(model: Any) -> None:
    free, _ = generate(model, PROMPTS, max_generated_tokens=6, temperature=0.0)
    stops = free[:, 4].tolist()
    tokens, _ = generate(model, PROMPTS, max_generated_tokens=6, temperature=0.0, stop_tokens=stops)
    assert tokens.shape[1] == 5


def test_others_may_keep_generation_going(model: Any) -> None:
    free, _ = generate(model, PROMPTS, max_generated_tokens=6, temperature=0.0)
    asked = []
    tokens, _ = generate(
        model,
        PROMPTS,
        max_generated_tokens=6,
        temperature=0.0,
        stop_tokens=free[:, 4].tolist(),
        all_stopped=lambda here: bool(asked.append(bool(here))) or len(asked) == 3,
    )
    assert asked == [True, True, True] and tokens.shape[1] == 7 and not tokens[:, 5:].any()


def test_each_token_takes_one_draw_of_batch_by_vocabulary_from_the_generator(model: Any) -> None:
    rng, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    tokens, logits = generate(model, PROMPTS, max_generated_tokens=3, temperature=0.7, rng=rng)
    for step in range(3):
        q = torch.empty(2, 23).exponential_(1, generator=other)
        expected = sample(logits[:, step], temperature=0.7, q=q)
        assert torch.equal(tokens[:, 4 + step], expected[:, 0].long())
    assert torch.equal(rng.get_state(), other.get_state())


def test_logits_are_kept_only_where_wanted(model: Any) -> None:
    tokens, logits = generate(model, PROMPTS, max_generated_tokens=3, temperature=0.0, return_logits=False)
    assert logits is None and tokens.shape == (2, 7)


def test_only_the_last_position_is_projected_to_the_vocabulary(model: Any) -> None:
    seen = []
    handle = model.output.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    generate(model, PROMPTS, max_generated_tokens=2, temperature=0.0)
    handle.remove()
    assert seen == [(2, 1, 23), (2, 1, 23)]
    assert model(PROMPTS).shape == (2, 4, 23)


def test_a_function_for_the_next_token_is_used_after_the_first(model: Any) -> None:
    shapes = []

    def next_token(model: Any, **kwargs: Any) -> Any:
        shapes.append((tuple(kwargs["x"].shape), tuple(kwargs["mask"].shape)))
        return generate_next_token(model, **kwargs)

    expected, _ = generate(model, PROMPTS, max_generated_tokens=4, top_k=1)
    with cached(model):
        tokens, _ = generate(model, PROMPTS, max_generated_tokens=4, top_k=1, compiled_generate_next_token=next_token)
    assert torch.equal(tokens, expected)
    assert shapes == [((2, 1), (2, 1, 12))] * 3


def test_a_cache_too_small_is_refused_before_anything_is_generated(model: Any) -> None:
    with cached(model, length=8):
        assert generate(model, PROMPTS, max_generated_tokens=5)[0].shape == (2, 9)
        model.reset_caches()
        with pytest.raises(ValueError, match=r"hold 8 tokens, but the prompt has 4 and 6 are.*>= 9"):
            generate(model, PROMPTS, max_generated_tokens=6)


def test_nothing_to_generate_gives_the_prompt(model: Any) -> None:
    tokens, logits = generate(model, PROMPTS, max_generated_tokens=0)
    assert torch.equal(tokens, PROMPTS) and logits is None
