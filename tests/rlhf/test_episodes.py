"""Conversations with tools: what is sampled is what is trained, and every conversation ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sample_tools

from torchtune.data import Message, ToolCall
from torchtune.rlhf.tools import (
    CallArgumentsReward,
    CallNameReward,
    EnvironmentReward,
    Episode,
    ExactCallsReward,
    FormatReward,
    OutcomeReward,
    Toolbox,
    collect,
)

CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    with Toolbox([sample_tools.add, sample_tools.fail, sample_tools.find], timeout_s=60) as box:
        yield box


def new_episode(tokenizer: Any, box: Toolbox | None = None, **row: Any) -> Episode:
    messages = [Message("user", "What is 1 + 2?")]
    tools = None if box is None else box.schemas
    return Episode(row, tokenizer.prompt_tokens(messages, tools=tools), messages, tools)


def scripted(tokenizer: Any, *turns: str, end: str = "<|im_end|>") -> Callable[[list[list[int]]], list[list[int]]]:
    """A model that says these turns, one after the other, in every conversation."""
    left = list(turns)
    controls = tokenizer._control_ids()

    def sample(contexts: list[list[int]]) -> list[list[int]]:
        text = left.pop(0) if len(left) > 1 else left[0]
        ids: list[int] = []
        for piece in (
            text.replace("<tool_call>", "\0<tool_call>\0").replace("</tool_call>", "\0</tool_call>\0").split("\0")
        ):
            ids += [controls[piece]] if piece in controls else tokenizer.encode(piece, add_bos=False, add_eos=False)
        return [[*ids, *([controls[end]] if end else [])] for _ in contexts]

    return sample


def run(tokenizer: Any, episode: Episode, sample: Any, box: Toolbox | None, **options: Any) -> Episode:
    collect([episode], tokenizer, sample, stop_tokens=tokenizer.official_stop_tokens, toolbox=box, **options)
    return episode


def test_tokens_are_those_of_the_whole_conversation(tokenizer: Any, toolbox: Toolbox) -> None:
    turns = [CALL.format("add", '{"a": 1, "b": 2}'), "It is 3.0."]
    episode = run(tokenizer, new_episode(tokenizer, toolbox), scripted(tokenizer, *turns), toolbox)
    assert episode.ended == "answer" and episode.text == "It is 3.0."
    whole = [
        Message("user", "What is 1 + 2?"),
        Message("assistant", "", ipython=True, eot=False, tool_calls=[ToolCall("add", {"a": 1, "b": 2})]),
        Message("tool", [{"type": "json", "content": 3}], eot=False),
        Message("assistant", "It is 3.0."),
    ]
    chat = tokenizer._encode_segments(tokenizer._render(whole, toolbox.schemas, False))
    ours = [False] * len(episode.prompt) + episode.sampled
    assert chat.tokens[: len(episode.context)] == episode.context
    assert chat.sampled[: len(ours)] == ours and not any(chat.sampled[len(ours) :])


def test_parallel_calls_are_answered_in_order(tokenizer: Any, toolbox: Toolbox) -> None:
    both = CALL.format("add", '{"a": 1, "b": 2}') + "\n" + CALL.format("fail", '{"reason": "no"}')
    episode = run(tokenizer, new_episode(tokenizer, toolbox), scripted(tokenizer, both, "Sorry."), toolbox)
    assert [record.result.text for record in episode.calls if record.result] == ["3", "Error: RuntimeError: no"]
    text = tokenizer.decode(episode.context, skip_special_tokens=False)
    assert text.rindex("3\n") < text.index("RuntimeError")


def test_sampled_ids_are_kept_though_the_text_has_other_ids(tokenizer: Any, toolbox: Toolbox) -> None:
    whole = tokenizer.encode("hello", add_bos=False, add_eos=False)
    letters = [id for letter in "hello" for id in tokenizer.encode(letter, add_bos=False, add_eos=False)]
    assert whole != letters  # the vocabulary has longer pieces
    call = scripted(tokenizer, CALL.format("add", '{"a": 1, "b": 2}'))([[]])[0]
    turns = [[*letters, *call], [*letters, tokenizer.official_stop_tokens[0]]]
    sampled = list(turns)
    episode = run(tokenizer, new_episode(tokenizer, toolbox), lambda contexts: [turns.pop(0)], toolbox)
    assert episode.turns == sampled
    assert [id for id, own in zip(episode.ids, episode.sampled, strict=True) if own] == sampled[0] + sampled[1]


def test_changed_ids_are_noticed(tokenizer: Any) -> None:
    episode = Episode({}, [1])
    episode.add([2, 3], sampled=True)
    episode.ids[1] = 4
    with pytest.raises(RuntimeError, match="not those that were sampled"):
        episode.add([5], sampled=False)


def test_model_that_never_stops_calling_is_stopped(tokenizer: Any, toolbox: Toolbox) -> None:
    endless = scripted(tokenizer, CALL.format("add", '{"a": 1, "b": 2}'))
    episode = run(tokenizer, new_episode(tokenizer, toolbox), endless, toolbox, max_tool_calls=3)
    assert episode.ended == "max_tool_calls"
    assert [record.result is not None for record in episode.calls] == [True, True, True, False]


@pytest.mark.parametrize("name", ["\ufffd for", "a b"])
def test_call_that_no_format_would_write_is_answered(name: str, tokenizer: Any, toolbox: Toolbox) -> None:
    episode = new_episode(tokenizer, toolbox)
    run(tokenizer, episode, scripted(tokenizer, CALL.format(name, '{"a": 1}'), "Sorry."), toolbox)
    assert episode.ended == "answer" and episode.text == "Sorry."
    assert episode.calls[0].result is not None and "there is no tool" in episode.calls[0].result.text


def test_results_that_leave_no_room_end_the_conversation(tokenizer: Any, toolbox: Toolbox) -> None:
    sample = scripted(tokenizer, CALL.format("add", '{"a": 1, "b": 2}'))
    episode = new_episode(tokenizer, toolbox)
    run(tokenizer, episode, sample, toolbox, max_tokens=len(episode.prompt) + len(sample([[]])[0]) + 5)
    assert episode.ended == "length" and all(episode.sampled)


@pytest.mark.parametrize(
    ("turn", "end", "ended"),
    [
        ("The answer", "", "length"),
        ("<tool_call>\n{oops\n</tool_call>", "<|im_end|>", "unparsed"),
        ("Three.", "<|im_end|>", "answer"),
    ],
)
def test_conversation_ends(turn: str, end: str, ended: str, tokenizer: Any, toolbox: Toolbox) -> None:
    episode = run(tokenizer, new_episode(tokenizer, toolbox), scripted(tokenizer, turn, end=end), toolbox)
    assert episode.ended == ended


def test_plain_prompts_have_one_turn(tokenizer: Any) -> None:
    episode = Episode({"answer": "4"}, tokenizer.encode("2 + 2 = ", add_eos=False))
    run(tokenizer, episode, scripted(tokenizer, "4"), None)
    assert (episode.text, episode.ended, episode.messages) == ("4", "answer", None)


def test_environment_lives_through_a_conversation(tokenizer: Any) -> None:
    with Toolbox(environment=sample_tools.Shop, timeout_s=60) as box:
        turns = [CALL.format("buy", '{"what": "tea"}'), CALL.format("buy", '{"what": "jam"}'), "Done."]
        episode = new_episode(tokenizer, box, wanted=["tea", "jam"])
        run(tokenizer, episode, scripted(tokenizer, *turns), box)
    assert [record.result.value for record in episode.calls if record.result] == [
        "bought tea, 1 in all", "bought jam, 2 in all",
    ]  # fmt: skip
    assert EnvironmentReward(2.0)(episode) == 2.0


def test_hanging_environment_ends_its_conversation(tokenizer: Any) -> None:
    with Toolbox(environment=sample_tools.Shop, timeout_s=1.5) as box:
        episode = run(
            tokenizer, new_episode(tokenizer, box, wanted=[]), scripted(tokenizer, CALL.format("sleep", "{}")), box
        )
    assert episode.ended == "lost" and episode.environment_reward == 0.0


EXPECTED = [{"name": "add", "arguments": {"a": 1, "b": 2}}]


@pytest.mark.parametrize(
    ("turns", "name", "arguments", "exact", "outcome", "form"),
    [
        ([CALL.format("add", '{"a": 1, "b": 2}'), "It is 3."], 1.0, 1.0, 1.0, 1.0, 1.0),
        ([CALL.format("add", '{"a": 1, "b": 5}'), "It is 6."], 1.0, 0.5, 0.0, 0.0, 1.0),
        ([CALL.format("find", '{"name": "x"}'), "3.0"], 0.0, 0.0, 0.0, 1.0, 1.0),
        (["It is 13."], 0.0, 0.0, 0.0, 0.0, 1.0),
        ([CALL.format("add", '{"a": 1}'), "No."], 1.0, 0.5, 0.0, 0.0, 2 / 3),
        (["<tool_call>\n{oops\n</tool_call>"], 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_rewards_see_the_whole_conversation(
    turns: list[str], name: float, arguments: float, exact: float, outcome: float, form: float,
    tokenizer: Any, toolbox: Toolbox,
) -> None:  # fmt: skip
    episode = new_episode(tokenizer, toolbox, expected_calls=EXPECTED, answer="3")
    run(tokenizer, episode, scripted(tokenizer, *turns), toolbox)
    assert CallNameReward()(episode) == name
    assert CallArgumentsReward()(episode) == arguments
    assert ExactCallsReward(2.0)(episode) == 2 * exact
    assert OutcomeReward()(episode) == outcome
    assert FormatReward()(episode) == pytest.approx(form)


def test_rewards_say_which_column_is_missing(tokenizer: Any) -> None:
    episode = Episode({"question": "?"}, [1], ended="answer")
    for reward in (CallNameReward(), OutcomeReward()):
        with pytest.raises(ValueError, match="no column .* it has \\['question'\\]"):
            reward(episode)
    with pytest.raises(ValueError, match="tools.environment"):
        EnvironmentReward()(episode)
