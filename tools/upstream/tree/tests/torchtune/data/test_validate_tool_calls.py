from __future__ import annotations

import pytest

from torchtune.data import Message, validate_messages


def _user():
    return Message(role="user", content="Weather in Oslo and Bergen?")


def _call(text='{"name": "get_weather", "arguments": {"city": "Oslo"}}'):
    return Message(role="assistant", content=text, ipython=True, eot=False)


def _text(text="It is cold."):
    return Message(role="assistant", content=text)


def _result(role="tool"):
    return Message(role=role, content="4 degrees", eot=False)


class TestValidateToolCalls:
    @pytest.mark.parametrize("role", ["tool", "ipython"])
    @pytest.mark.parametrize("n_results", [1, 2, 3])
    def test_a_call_may_have_several_results(self, role, n_results):
        results = [_result(role) for _ in range(n_results)]
        validate_messages([_user(), _call(), *results, _text()])

    def test_calls_and_results_may_alternate(self):
        validate_messages([_user(), _call(), _result(), _call(), _result(), _text(), _user(), _text()])

    def test_a_conversation_may_end_in_a_call_or_in_a_result(self):
        validate_messages([_user(), _call()])
        validate_messages([_user(), _call(), _result()])

    def test_text_may_stand_before_a_call(self):
        validate_messages([_user(), _text("Let me look."), _call(), _result(), _text()])

    def test_an_assistant_message_may_be_empty(self):
        validate_messages([_user(), _text("")])

    def test_one_message_is_enough_for_a_prompt(self):
        validate_messages([_user()], inference=True)
        with pytest.raises(ValueError, match="Messages must be at least length 2, but got 1 messages"):
            validate_messages([_user()])

    @pytest.mark.parametrize("role", ["tool", "ipython"])
    def test_a_result_without_a_call_is_refused(self, role):
        for before in ([_user()], [_user(), _text()]):
            with pytest.raises(ValueError, match=f"at index {len(before)} must follow an ipython message"):
                validate_messages([*before, _result(role)])

    def test_two_assistant_messages_in_a_plain_conversation_are_refused(self):
        with pytest.raises(
            ValueError, match="Assistant message before expected user, tool or ipython message at index 2"
        ):
            validate_messages([_user(), _text(), _text()])

    def test_two_user_messages_are_refused(self):
        with pytest.raises(ValueError, match="Two consecutive user messages at index 1 and 0 in messages"):
            validate_messages([_user(), _user()])

    def test_a_late_system_message_is_refused(self):
        with pytest.raises(
            ValueError, match="System message at index 1 in messages, but system messages must come first"
        ):
            validate_messages([_user(), Message(role="system", content=""), _text()])
