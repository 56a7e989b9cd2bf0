"""Tests of generating from conversations: prompts, batches, caches, answers read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchtune.data import Message
from torchtune.data.formats import get_format
from torchtune.generation import generate, generate_messages, generate_tokens
from torchtune.models.llama3 import llama3

STOP = 256


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    built = llama3(
        vocab_size=300, num_layers=1, num_heads=2, num_kv_heads=1, embed_dim=16, max_seq_len=64, intermediate_dim=24
    )
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.eval()


class ByteTokenizer:
    """Writes the last message as bytes, reads Hermes-style calls back."""

    official_stop_tokens = [STOP]

    def prompt_tokens(self, messages: list[Message], *, tools: Any = None) -> list[int]:
        return [257, *messages[-1].text_content.encode(), *([258] if tools else [])]

    def parse_tokens(self, ids: list[int]) -> Any:
        text = bytes(token for token in ids if token < 256).decode(errors="replace")
        message = get_format("qwen2_5").parse(text)
        message.complete = STOP in ids
        return message


def alone(model: Any, prompt: list[int], count: int) -> list[int]:
    tokens, _ = generate(model, torch.tensor(prompt), max_generated_tokens=count, temperature=0.0, pad_id=-1)
    return tokens[0, len(prompt) :].tolist()


def test_prompts_of_any_length_are_continued_in_their_order(model: Any) -> None:
    prompts = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6], [8, 8], [0, 0, 4]]
    outputs = generate_tokens(model, prompts, stop_tokens=[], max_generated_tokens=6, batch_size=2)
    assert outputs == [alone(model, prompt, 6) for prompt in prompts]


def test_an_answer_ends_with_its_stop_token(model: Any) -> None:
    prompts = [[5, 6, 7], [9]]
    free = [alone(model, prompt, 8) for prompt in prompts]
    stop = free[0][2]
    outputs = generate_tokens(model, prompts, stop_tokens=[stop], max_generated_tokens=8)
    assert outputs[0] == free[0][: free[0].index(stop) + 1]
    expected = free[1][: free[1].index(stop) + 1] if stop in free[1] else free[1]
    assert outputs[1] == expected


def test_an_answer_ends_where_the_model_has_no_more_positions(model: Any) -> None:
    (output,) = generate_tokens(model, [[7] * 60], stop_tokens=[], max_generated_tokens=50)
    assert len(output) == 4


@pytest.mark.parametrize(
    ("prompts", "phrase"), [([[1], []], "Prompt 1 is empty"), ([[1] * 64], "Prompt 0 has 64 tokens, but .* takes 64")]
)
def test_prompts_that_cannot_be_continued_are_named(model: Any, prompts: list[list[int]], phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        generate_tokens(model, prompts, stop_tokens=[], max_generated_tokens=2)


def test_a_model_in_training_is_left_as_it_was(model: Any) -> None:
    expected = generate_tokens(model, [[5, 6]], stop_tokens=[], max_generated_tokens=4)
    model.train()
    model.set_num_output_chunks(4)
    model.skip_output_layer = True
    try:
        assert generate_tokens(model, [[5, 6]], stop_tokens=[], max_generated_tokens=4) == expected
        assert (model.training, model.num_output_chunks, model.skip_output_layer) == (True, 4, True)
        assert not model.caches_are_setup()
        assert all(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval()
        model.set_num_output_chunks(0)
        model.skip_output_layer = False


def test_caches_of_the_model_are_used_and_emptied_for_each_batch() -> None:
    torch.manual_seed(0)
    own = llama3(
        vocab_size=300, num_layers=1, num_heads=2, num_kv_heads=1, embed_dim=16, max_seq_len=64, intermediate_dim=24
    ).eval()
    prompts = [[5, 6, 7], [9], [1, 2]]
    expected = generate_tokens(own, prompts, stop_tokens=[], max_generated_tokens=4, batch_size=2)
    own.setup_caches(2, torch.float32, decoder_max_seq_len=16)
    assert generate_tokens(own, prompts, stop_tokens=[], max_generated_tokens=4, batch_size=2) == expected
    assert own.caches_are_setup()


def test_conversations_are_answered_with_parsed_messages(model: Any) -> None:
    conversations = [
        {"messages": [Message("user", "Hi there")]},
        {"messages": [Message("user", "Call it")], "tools": [{"name": "f"}]},
    ]
    answers = generate_messages(model, ByteTokenizer(), conversations, max_generated_tokens=5)
    tokenizer = ByteTokenizer()
    for conversation, answer in zip(conversations, answers, strict=True):
        prompt = tokenizer.prompt_tokens(conversation["messages"], tools=conversation.get("tools"))
        ids = generate_tokens(model, [prompt], stop_tokens=[STOP], max_generated_tokens=5)[0]
        assert answer == tokenizer.parse_tokens(ids)


def test_the_same_seed_gives_the_same_answers(model: Any) -> None:
    def run() -> list[list[int]]:
        rng = torch.Generator().manual_seed(4)
        return generate_tokens(model, [[5], [6]], stop_tokens=[], max_generated_tokens=8, temperature=1.0, rng=rng)

    assert run() == run()
