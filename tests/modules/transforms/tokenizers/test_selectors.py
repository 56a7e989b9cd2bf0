"""Loss selectors: exactly which tokens are trained, and how much, on five families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchtune.data import Message, ToolCall, mask_messages
from torchtune.models.gemma import GemmaTokenizer
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.mistral import MistralTokenizer
from torchtune.models.qwen2_5 import Qwen2_5Tokenizer
from torchtune.models.qwen3 import Qwen3Tokenizer

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Now.", "parameters": PARAMETERS}}

#: Of each family: the call, what stands between it and its end token, the end token, header, answer, user's text.
LLAMA_HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
TAGGED = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
EXPECTED: dict[str, dict[str, str]] = {
    "llama3_1": {
        "header": LLAMA_HEADER,
        "call": '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        "end": "<|eot_id|>",
    },
    "qwen2_5": {"header": "<|im_start|>assistant\n", "call": TAGGED, "end": "<|im_end|>"},
    "qwen3": {
        "header": "<|im_start|>assistant\n",
        "thought": "<think>\nLook it up.\n</think>\n\n",
        "thought2": "<think>\nNow tell.\n</think>\n\n",
        "call": TAGGED,
        "end": "<|im_end|>",
    },
    "mistral_v3": {
        "header": "",
        "call": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abc123XYZ"}]',
        "answer": " 21 degrees.",
        "end": "</s>",
    },
    "gemma2": {"header": "<start_of_turn>model\n", "call": TAGGED, "end": "<end_of_turn>"},
}
FAMILIES = list(EXPECTED)
five = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def make(bpe_folder: Path, tiktoken_file: str, spm_file: str) -> Any:
    """Family and options -> its tokenizer on a tiny vocabulary."""
    bpe = (str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"))

    def tokenizer(family: str, **options: Any) -> Any:
        if family == "gemma2":
            options["format_options"] = {"tool_convention": "hermes"}
        build, files = {
            "llama3_1": (Llama3Tokenizer, (tiktoken_file,)),
            "qwen2_5": (Qwen2_5Tokenizer, bpe),
            "qwen3": (Qwen3Tokenizer, bpe),
            "mistral_v3": (MistralTokenizer, (spm_file,)),
            "gemma2": (GemmaTokenizer, (spm_file,)),
        }[family]
        return build(*files, chat_format=family, **options)  # type: ignore[operator]

    return tokenizer


def weather_chat() -> list[Message]:
    """A question, a call after a thought, its result, and the answer after another thought."""
    call = ToolCall("get_weather", {"city": "Paris"}, "abc123XYZ")
    return [
        Message("user", "Weather in Paris?", masked=True),
        Message("assistant", "", ipython=True, eot=False, tool_calls=[call], reasoning_content="Look it up."),
        Message("tool", "sunny", masked=True, eot=False, tool_call_id="abc123XYZ"),
        Message("assistant", "21 degrees.", reasoning_content="Now tell."),
    ]


def stretches(tokenizer: Any, messages: list[Message], weight: float | None = None) -> list[str]:
    """The text of each stretch of tokens that is trained, or that has this weight."""
    sample = tokenizer({"messages": messages, "tools": [TOOL]})
    weights = sample.get("loss_weights") or [float(not hidden) for hidden in sample["mask"]]
    assert [value == 0 for value in weights] == sample["mask"]
    found: list[list[int]] = [[]]
    for token, value in zip(sample["tokens"], weights, strict=True):
        if value != 0 if weight is None else value == weight:
            found[-1].append(token)
        elif found[-1]:
            found.append([])
    return ["".join(s.text for s in tokenizer.to_segments(ids)) for ids in found if ids]


def parts(family: str) -> tuple[str, str, str, str, str, str]:
    """Header, thought, call, second thought, answer and end token of a family."""
    row = EXPECTED[family]
    answer = row.get("answer", "21 degrees.")
    return row["header"], row.get("thought", ""), row["call"], row.get("thought2", ""), answer, row["end"]


@five
def test_sampled_is_all_that_the_model_emits(make: Any, family: str) -> None:
    _, thought, call, thought2, answer, end = parts(family)
    got = stretches(make(family, train_on="sampled"), weather_chat())
    assert got == [thought + call + end, thought2 + answer + end]


@five
def test_message_is_that_and_its_headers(make: Any, family: str) -> None:
    header, thought, call, thought2, answer, end = parts(family)
    got = stretches(make(family, train_on="message"), weather_chat())
    spaceless = [text.replace("turn> ", "turn>").rstrip() for text in got]  # SentencePiece begins texts with a space
    assert spaceless == [
        header + thought + call + end,
        header + thought2 + answer + end,
    ]


@five
def test_calls_only_are_the_calls_and_the_ends_of_their_turns(make: Any, family: str) -> None:
    _, _, call, _, _, end = parts(family)
    assert stretches(make(family, train_on="calls"), weather_chat()) == [call + end]


@five
def test_no_reasoning_leaves_thoughts_out(make: Any, family: str) -> None:
    _, _, call, _, answer, end = parts(family)
    got = stretches(make(family, train_on=["sampled", "no_reasoning"]), weather_chat())
    assert got == [call + end, answer + end]


@five
def test_calls_count_as_much_as_their_factor_says(make: Any, family: str) -> None:
    _, thought, call, thought2, answer, end = parts(family)
    tokenizer = make(family, train_on=["sampled", {"call": 2.5}])
    assert stretches(tokenizer, weather_chat(), weight=2.5) == [call]
    assert stretches(tokenizer, weather_chat(), weight=1) == [
        *([thought] if thought else []),
        end,
        thought2 + answer + end,
    ]


@five
def test_weights_of_messages_multiply_factors(make: Any, family: str) -> None:
    _, _, call, thought2, answer, end = parts(family)
    messages = weather_chat()
    messages[1].weight = 0.5
    tokenizer = make(family, train_on=["sampled", {"call": 3.0}])
    assert stretches(tokenizer, messages, weight=1.5) == [call]
    assert stretches(tokenizer, messages, weight=1.0) == [thought2 + answer + end]


@five
def test_a_message_of_weight_0_is_not_trained(make: Any, family: str) -> None:
    _, _, _, thought2, answer, end = parts(family)
    messages = weather_chat()
    messages[1].weight = 0
    assert stretches(make(family, train_on="sampled"), messages) == [thought2 + answer + end]


@five
@pytest.mark.parametrize("strategy", ["train_on_all", "train_on_assistant", "train_on_last"])
def test_strategies_say_which_messages_and_selectors_what_of_them(make: Any, family: str, strategy: str) -> None:
    _, thought, call, thought2, answer, end = parts(family)
    messages = weather_chat()
    mask_messages(messages, strategy)
    turns = [thought + call + end, thought2 + answer + end]
    assert stretches(make(family, train_on="sampled"), messages) == turns[-1 if strategy == "train_on_last" else 0 :]
    calls = stretches(make(family, train_on="calls"), messages)
    assert calls == ([] if strategy == "train_on_last" else [call + end])
    whole = "".join(stretches(make(family, train_on="message"), messages))
    assert ("Weather in Paris?" in whole) == ("sunny" in whole) == (strategy == "train_on_all")


@five
def test_without_factors_a_sample_has_no_weights(make: Any, family: str) -> None:
    sample = make(family, train_on=["sampled", "no_reasoning"])({"messages": weather_chat(), "tools": [TOOL]})
    assert set(sample) == {"tokens", "mask"}


def test_hand_made_text_calls_are_calls_too(make: Any) -> None:
    messages = [
        Message("user", "Weather?", masked=True),
        Message("assistant", "get_weather(Paris)", ipython=True, eot=False),
        Message("ipython", "sunny", masked=True, eot=False),
        Message("assistant", "Sunny."),
    ]
    tokenizer = make("llama3_1", train_on="calls")
    tokenizer.chat_format = None
    sample = tokenizer({"messages": messages})
    trained = [t for t, hidden in zip(sample["tokens"], sample["mask"], strict=True) if not hidden]
    text = "".join(s.text for s in tokenizer.to_segments(trained))
    assert text == "<|python_tag|>get_weather(Paris)<|eom_id|>"


@pytest.mark.parametrize(
    ("train_on", "problem"),
    [
        ("everything", "one of message, sampled, calls, no_reasoning; found 'everything'"),
        ([], "or a list of these"),
        ({"thought": 2.0}, "a factor is for one of header, content.*found 'thought'"),
        ({"call": -1}, "a number of 0 or more; found -1"),
        ({"call": float("nan")}, "a number of 0 or more"),
        (["sampled", 3], "holds names and factors"),
    ],
)
def test_selectors_that_mean_nothing_are_refused(make: Any, train_on: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"Qwen3Tokenizer: train_on.*{problem}"):
        make("qwen3", train_on=train_on)


def test_selectors_come_from_yaml(make: Any) -> None:
    from omegaconf import OmegaConf

    section = OmegaConf.create({"train_on": ["sampled", {"call": 2.0}]})
    assert stretches(make("qwen2_5", train_on=section.train_on), weather_chat(), weight=2.0) == [TAGGED]
