"""Llama 4's tokenizer, its text part."""

from __future__ import annotations

import pytest

from torchtune.data import Message, ToolCall
from torchtune.models.llama4 import Llama4Tokenizer
from torchtune.models.llama4._tokenizer import LLAMA4_SPECIAL_TOKENS


@pytest.fixture(scope="module")
def tokenizer(tiktoken_file: str) -> Llama4Tokenizer:
    return Llama4Tokenizer(tiktoken_file)


def test_a_plain_conversation(tokenizer: Llama4Tokenizer) -> None:
    tokens, mask = tokenizer.tokenize_messages([Message("user", "hello"), Message("assistant", "yes")])
    assert tokenizer.decode(tokens, truncate_at_eos=False, skip_special_tokens=False) == (
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nhello<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\nyes<|eot|><|end_of_text|>"
    )
    assert tokenizer.decode(tokens) == "helloyes"
    assert (mask[0], mask[1], mask[-1]) == (True, False, True)


def test_calls_use_the_tokens_that_the_list_calls_reserved(tokenizer: Llama4Tokenizer) -> None:
    messages = [Message("user", "a"), Message("assistant", "b", tool_calls=[ToolCall("f", {"x": 1})])]
    tokens, _ = tokenizer.tokenize_messages(messages)
    assert tokens.count(200016) == tokens.count(200017) == 1
    parsed = tokenizer.parse_tokens(tokens[tokens.index(200016) :])
    assert parsed.tool_calls[0].arguments == {"x": 1}


def test_decoding_stops_at_eos_in_first_place(tokenizer: Llama4Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.eos_id, *tokenizer.encode("hello", add_bos=False)]) == ""


def test_the_list_of_control_tokens_has_each_id_once() -> None:
    assert sorted(LLAMA4_SPECIAL_TOKENS.values()) == list(range(200000, 202048))
    assert LLAMA4_SPECIAL_TOKENS["<|vision_reserved_special_token_1047|>"] == 201133


def test_a_missing_control_token_is_named(tiktoken_file: str) -> None:
    with pytest.raises(ValueError, match="missing from special_tokens"):
        Llama4Tokenizer(tiktoken_file, special_tokens={"<|begin_of_text|>": 1})
