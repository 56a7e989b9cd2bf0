from __future__ import annotations

import pytest

from torchtune.data import Message, OpenAIToMessages, ShareGPTToMessages, _messages
from torchtune.data._flags import set_eot


def _eot(*roles):
    messages = [Message(role=role, content="x") for role in roles]
    set_eot(messages)
    return [m.eot for m in messages]


class TestEot:
    @pytest.mark.parametrize("result", ["tool", "ipython"])
    def test_the_turn_goes_on_at_results_and_at_the_message_before_them(self, result):
        flags = _eot("system", "user", "assistant", result, result, "assistant", "user", "assistant")
        assert flags == [True, True, False, False, False, True, True, True]

    def test_a_last_message_of_the_assistant_ends_its_turn(self):
        message = Message(role="assistant", content="f(1)", ipython=True, eot=False)
        set_eot([Message(role="user", content="x"), message])
        assert message.eot

    def test_a_last_result_does_not_end_the_turn(self):
        assert _eot("user", "assistant", "tool") == [True, False, False]

    def test_a_user_between_ends_the_turn(self):
        assert _eot("user", "assistant", "user", "assistant") == [True] * 4

    def test_openai_rows_follow_the_rule(self):
        rows = [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "f(1)"},
            {"role": "ipython", "content": "2"},
            {"role": "assistant", "content": "It is 2."},
        ]
        messages = OpenAIToMessages(new_system_prompt="s")({"messages": rows})["messages"]
        assert [(m.role, m.eot) for m in messages] == [
            ("system", True),
            ("user", True),
            ("assistant", False),
            ("ipython", False),
            ("assistant", True),
        ]

    def test_sharegpt_rows_follow_the_rule(self, monkeypatch):
        seen = []
        monkeypatch.setattr(_messages, "set_eot", seen.append)
        rows = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
        messages = ShareGPTToMessages()({"conversations": rows})["messages"]
        assert seen == [messages]
