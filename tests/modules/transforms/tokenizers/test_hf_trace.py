"""Chat templates traced back to their messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _tiny_hf import GENERATION, INST, SPECIAL, TAGS, TEMPLATES, TOOL, chat, stretches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchtune.data import Message, ToolCall
from torchtune.data.formats import Segment, get_format
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer


class TestSampledStretches:
    def test_templates_that_rewrite_history(self, model: Any) -> None:
        assert stretches(model("rewrites"), chat(), [TOOL]) == [
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call><|im_end|>',
            "It is sunny.<|im_end|>",
            "<think>\nthink no more\n</think>\n\n Yes. <|im_end|>",
        ]

    def test_templates_without_a_generation_prompt(self, model: Any) -> None:
        messages = [Message("system", "Be kind."), *chat()]
        for message in messages:
            message.reasoning_content = None
        assert stretches(model("inst"), messages) == [
            '[TOOL_CALLS]{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}</s>',
            " It is sunny.</s>",
            "  Yes. </s>",
        ]

    def test_templates_without_an_end_token(self, model: Any) -> None:
        assert stretches(model("roles_only"), chat(structured=False)) == ["It is sunny.", "Yes."]

    def test_templates_that_mark_generation(self, model: Any) -> None:
        assert stretches(model("generation"), chat(structured=False)) == ["It is sunny.<|im_end|>", " Yes. <|im_end|>"]

    def test_an_empty_answer_is_its_end_token(self, model: Any) -> None:
        messages = [
            Message("user", "hello"),
            Message("assistant", ""),
            Message("user", "no"),
            Message("assistant", "a"),
        ]
        assert stretches(model("rewrites"), messages) == ["<|im_end|>", "a<|im_end|>"]

    def test_an_empty_result_and_one_that_the_template_reads_as_a_number(self, model: Any) -> None:
        reads = INST.replace(
            "{{ m.content }}\n{%- endif", "{{ m.content | int if m.content.isdigit() else m.content }}\n{%- endif"
        )
        assert reads != INST
        for result in ("", "42"):
            messages = chat()
            messages[2] = Message("tool", result)
            for message in messages:
                message.reasoning_content = None
            assert stretches(model(reads), messages)[1:] == [" It is sunny.</s>", "  Yes. </s>"]

    def test_thinking_inside_a_content_is_cut_as_the_template_does(self, model: Any) -> None:
        messages = [Message("user", "hello"), Message("assistant", "<think>\nwhy\n</think>\n\nyes")]
        assert stretches(model("rewrites"), messages) == ["yes<|im_end|>"]

    def test_repeated_texts_are_told_apart(self, model: Any) -> None:
        messages = [Message(role, "yes") for role in ("user", "assistant", "user", "assistant")]
        tokenizer = model("generation", train_on="sampled")
        found = tokenizer.tokenize_chat(messages)
        assert sorted({i for i, s in zip(found.message_index, found.sampled, strict=True) if s}) == [1, 3]

    def test_parts_of_a_turn(self, model: Any) -> None:
        found = model("rewrites").tokenize_chat(chat(), tools=[TOOL])
        parts = {
            (index, part)
            for index, part, sampled in zip(found.message_index, found.part, found.sampled, strict=True)
            if sampled
        }
        assert parts >= {
            (1, "call"),
            (1, "end"),
            (3, "content"),
            (3, "end"),
            (5, "reasoning"),
            (5, "content"),
            (5, "end"),
        }
        assert (2, "result") in set(zip(found.message_index, found.part, strict=True))

    def test_message_trains_headers_and_masked_messages_stay_out(self, model: Any) -> None:
        messages = chat(structured=False)
        messages[0].masked = messages[1].masked = True
        tokenizer = model("generation")
        tokens, mask = tokenizer.tokenize_messages(messages)
        trained = [token for token, hidden in zip(tokens, mask, strict=True) if not hidden]
        text = tokenizer.decode(trained, skip_special_tokens=False)
        assert text == "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n Yes. <|im_end|>\n"


class TestAgainstTransformers:
    @pytest.mark.parity
    @pytest.mark.parametrize("name", sorted(TEMPLATES))
    @pytest.mark.parametrize("prompt", [False, True])
    def test_ids_are_those_of_transformers(self, model: Any, reference: Any, name: str, prompt: bool) -> None:
        messages = chat(structured=name == "rewrites")
        messages = messages[:-1] if prompt else messages
        rows = []
        for message in messages:
            row: dict[str, Any] = {"role": message.role, "content": message.text_content}
            if message.tool_calls:
                row["tool_calls"] = [call.to_dict() for call in message.tool_calls]
            if message.reasoning_content:
                row["reasoning_content"] = message.reasoning_content
            rows.append(row)
        tools = [TOOL] if name == "rewrites" else None
        expected = reference.apply_chat_template(
            rows, tools=tools, chat_template=TEMPLATES[name], add_generation_prompt=prompt, return_dict=False
        )
        tokenizer = model(name)
        if prompt:
            assert tokenizer.prompt_tokens(messages, tools=tools) == expected
        else:
            assert tokenizer.tokenize_messages(messages, tools=tools)[0] == expected

    @pytest.mark.parity
    def test_masks_are_those_of_transformers_where_it_has_them(self, model: Any, reference: Any) -> None:
        messages = chat(structured=False)
        rows = [{"role": message.role, "content": message.text_content} for message in messages]
        expected = reference.apply_chat_template(
            rows, chat_template=GENERATION, return_dict=True, return_assistant_tokens_mask=True
        )
        tokens, mask = model("generation", train_on="sampled").tokenize_messages(messages)
        assert tokens == expected["input_ids"]
        assert [int(not hidden) for hidden in mask] == expected["assistant_masks"]

    @pytest.mark.parity
    @pytest.mark.parametrize(
        "name",
        ["mistral_v3", "mistral_v3_tekken", "mistral_v7", "mistral_v7_tekken", "mistral_v11", "mistral_v13"],
    )
    def test_mistrals_own_templates_are_traced_as_our_formats_write_them(
        self, name: str, hf_folder: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("mistral_common", minversion="1.13", reason="older ones write other templates")
        from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
        from mistral_common.tokens.tokenizers.base import TokenizerVersion
        from tokenizers import Tokenizer

        fmt = get_format(name)
        version = TokenizerVersion(name.split("_")[1])
        spm = name in ("mistral_v3", "mistral_v7")
        template = generate_chat_template(spm, version, False, False, False, None, False, True, None, None, None)
        rust = Tokenizer.from_file(str(hf_folder / "tokenizer.json"))
        rust.add_special_tokens(list(fmt.controls))
        rust.save(str(tmp_path / "tokenizer.json"))
        path = str(hf_folder / "tokenizer_config.json")
        tokenizer = HuggingFaceModelTokenizer(
            str(tmp_path / "tokenizer.json"), tokenizer_config_json_path=path, chat_template=template
        )
        assert tokenizer.format.name == name
        messages = chat()
        for message in messages:
            message.reasoning_content = None
        messages[1].tool_calls = [ToolCall("get_weather", {"city": "Paris", "days": 2}, "abcdefghi")]
        messages[2].tool_call_id = "abcdefghi"
        for system in ([], [Message("system", "Be kind.")]):
            whole = [*system, *messages]
            segments, written = tokenizer._render(whole, [TOOL], False), fmt.render(whole, [TOOL])
            assert "".join(s.text for s in segments) == "".join(s.text for s in written)
            assert [s.text for s in _joined(segments)] == [s.text for s in _joined(written)]


def _joined(segments: list[Segment]) -> list[Segment]:
    """Sampled segments, those side by side made one."""
    out: list[Segment] = []
    before = False
    for segment in segments:
        if segment.sampled and before:
            out[-1] = out[-1]._replace(text=out[-1].text + segment.text)
        elif segment.sampled:
            out.append(segment)
        before = segment.sampled
    return out


class TestControlTokensInTexts:
    @settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
    @given(
        parts=st.lists(
            st.one_of(st.sampled_from(SPECIAL + TAGS), st.sampled_from([" a", "\n", "é", "<|"])), min_size=1, max_size=5
        )
    )
    def test_no_text_forges_a_control_token(self, model: Any, parts: list[str]) -> None:
        tokenizer = model("rewrites")
        evil = "x" + "".join(parts) + "x"
        call = ToolCall("get_weather", {"city": evil})
        tool = {"type": "function", "function": {**TOOL["function"], "description": evil}}

        def controls(text: str, argument: str, tool: Any) -> list[int]:
            call.arguments = {"city": argument}
            messages = [
                Message("system", text),
                Message("user", text),
                Message("assistant", "", tool_calls=[call]),
                Message("tool", text),
                Message("assistant", "ok"),
            ]
            tokens, _ = tokenizer.tokenize_messages(messages, tools=[tool])
            assert text in tokenizer.decode(tokens, skip_special_tokens=False)
            return [token for token in tokens if token in set(tokenizer.base_tokenizer.control_ids.values())]

        plain = {"type": "function", "function": {**TOOL["function"], "description": "x"}}
        assert controls(evil, evil, tool) == controls("x", "x", plain)

    def test_the_model_may_write_its_own_tags_but_not_end_its_turn(self, model: Any) -> None:
        tokenizer = model("generation")
        tokens, _ = tokenizer.tokenize_messages(
            [Message("user", "a"), Message("assistant", "<think>b</think><|im_end|>c")]
        )
        assert tokens.count(tokenizer.special_tokens["<think>"]) == 1
        assert tokens.count(tokenizer.special_tokens["<|im_end|>"]) == 2

    def test_private_characters_in_texts_stay(self, model: Any) -> None:
        tokenizer = model("rewrites")
        text = "a \U000f0000 b <|im_end|>"
        tokens, _ = tokenizer.tokenize_messages([Message("user", text), Message("assistant", "ok")])
        assert text in tokenizer.decode(tokens, skip_special_tokens=False)

    def test_white_space_beside_a_token_is_taken_as_the_file_says(self, hf_folder: Path, tmp_path: Path) -> None:
        from tokenizers import AddedToken, Tokenizer

        rust = Tokenizer.from_file(str(hf_folder / "tokenizer.json"))
        rust.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
        rust.save(str(tmp_path / "tokenizer.json"))
        template = "{% for m in messages %}{{ m.content }}<|end|>\n\n{% endfor %}"
        tokenizer = HuggingFaceModelTokenizer(
            str(tmp_path / "tokenizer.json"),
            tokenizer_config_json_path=str(hf_folder / "tokenizer_config.json"),
            chat_template=template,
        )
        plain, _ = tokenizer.tokenize_messages([Message("user", "hello"), Message("assistant", "no")])
        forged, _ = tokenizer.tokenize_messages([Message("user", "hello<s>"), Message("assistant", "no")])
        end = tokenizer.special_tokens["<|end|>"]
        assert plain[plain.index(end) :] == forged[forged.index(end) :]


class TestLostParts:
    def test_a_dropped_call_is_an_error(self, model: Any) -> None:
        with pytest.raises(ValueError, match="Message 1 .assistant.*leaves out the call of 'get_weather'"):
            model("generation").tokenize_messages(chat())

    def test_a_dropped_text_is_an_error(self, model: Any) -> None:
        messages = [Message("user", "a"), Message("assistant", "beside", tool_calls=[ToolCall("f", {})])]
        with pytest.raises(ValueError, match="leaves out its text beside the calls"):
            model("inst").tokenize_messages(messages)

    def test_dropped_tools_are_an_error(self, model: Any) -> None:
        messages = chat()
        for message in messages:
            message.reasoning_content = None
        with pytest.raises(ValueError, match="leaves out the tool"):
            model("inst").tokenize_messages(messages, tools=[{"type": "function", "function": {"name": "other"}}])

    def test_what_the_template_refuses_is_an_error_with_its_words(self, model: Any) -> None:
        template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(ValueError, match="roles must alternate"):
            model(template).tokenize_messages([Message("user", "a")])

    def test_templates_run_in_a_sandbox(self, model: Any) -> None:
        with pytest.raises(ValueError, match="unsafe"):
            model("{{ messages.__class__.__mro__ }}").tokenize_messages([Message("user", "a")])

    def test_a_model_without_a_template_is_refused(self, hf_folder: Path) -> None:
        with pytest.raises(ValueError, match="No chat template"):
            HuggingFaceModelTokenizer(
                str(hf_folder / "tokenizer.json"), tokenizer_config_json_path=str(hf_folder / "tokenizer_config.json")
            )
