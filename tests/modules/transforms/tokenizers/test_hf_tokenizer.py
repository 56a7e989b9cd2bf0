"""Tokenizers from the files of a Hugging Face model, and chat templates traced back to their messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchtune.data import Message, ToolCall
from torchtune.data.formats import Segment, get_format
from torchtune.modules.transforms.tokenizers import HuggingFaceBaseTokenizer, HuggingFaceModelTokenizer

SPECIAL = [
    *("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"),
    *("[INST]", "[/INST]", "[TOOL_CALLS]"),
]
TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]

#: ChatML that drops the reasoning of earlier turns, cuts thinking out of contents, and merges results into user turns.
REWRITES = """
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set text = m.content.split('</think>')[-1].lstrip('\\n') if '</think>' in m.content else m.content %}
<|im_start|>assistant
{% if m.reasoning_content and loop.index0 > ns.last %}<think>
{{ m.reasoning_content | trim }}
</think>

{% endif %}
{{- text }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif m.role == 'tool' %}
{%- if loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ m.content }}
</tool_response>
{%- if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>
{% endif %}
{%- else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

#: No generation prompt, the system text in the last user turn, arguments as text.
INST = """{{ bos_token }}
{%- set ns = namespace(last=0, system='') %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- if m.role == 'system' %}{% set ns.system = m.content + ' ' %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}[INST] {{ ns.system if loop.index0 == ns.last else '' }}{{ m.content }}[/INST]
{%- elif m.role == 'assistant' and m.tool_calls %}[TOOL_CALLS]
{%- for call in m.tool_calls %}{{ '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments + '}' }}
{%- endfor %}{{ eos_token }}
{%- elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}
{%- elif m.role == 'tool' %}<|tool|>{{ m.content }}
{%- endif %}
{%- endfor %}"""

#: No end token: the next role's token ends a turn. Contents are trimmed.
ROLES_ONLY = """
{%- for m in messages %}<|{{ m.role }}|>
{{ m.content | trim }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}"""

#: Marks itself what the model emits.
GENERATION = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}

{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TEMPLATES = {"rewrites": REWRITES, "inst": INST, "roles_only": ROLES_ONLY, "generation": GENERATION}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def hf_folder(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny Hugging Face model, without a chat template."""
    from tokenizers import AddedToken, Tokenizer

    rust = Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
    rust.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    rust.add_tokens([AddedToken(text, normalized=False, special=False) for text in TAGS])
    folder = tmp_path_factory.mktemp("hf")
    rust.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": rust.token_to_id("<|im_end|>")}))
    return folder


@pytest.fixture(scope="module")
def model(hf_folder: Path) -> Callable[..., HuggingFaceModelTokenizer]:
    def make(template: str, **options: Any) -> HuggingFaceModelTokenizer:
        return HuggingFaceModelTokenizer(
            str(hf_folder / "tokenizer.json"),
            tokenizer_config_json_path=str(hf_folder / "tokenizer_config.json"),
            chat_template=TEMPLATES.get(template, template),
            **options,
        )

    return make


@pytest.fixture(scope="module")
def base(hf_folder: Path) -> HuggingFaceBaseTokenizer:
    return HuggingFaceBaseTokenizer(
        str(hf_folder / "tokenizer.json"), tokenizer_config_json_path=str(hf_folder / "tokenizer_config.json")
    )


@pytest.fixture(scope="module")
def reference(hf_folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(hf_folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def chat(structured: bool = True) -> list[Message]:
    """A conversation, with a call and reasoning where the template takes them."""
    call = Message("assistant", "", tool_calls=[ToolCall("get_weather", {"city": "Paris", "days": 2}, "c1")])
    middle = [call, Message("tool", "21 degrees", tool_call_id="c1")] if structured else []
    reasoning = {"reasoning_content": "think no more"} if structured else {}
    return [
        Message("user", "What is the weather?"),
        *middle,
        Message("assistant", "It is sunny.", **reasoning),
        Message("user", "Sure?"),
        Message("assistant", " Yes. ", **reasoning),
    ]


def stretches(tokenizer: HuggingFaceModelTokenizer, messages: list[Message], tools: Any = None) -> list[str]:
    """The text of each stretch that is trained when only what the model emits is."""
    found = tokenizer.tokenize_chat(messages, tools=tools)
    out: list[list[int]] = [[]]
    for token, hidden in zip(found.tokens, found.mask("sampled"), strict=True):
        if not hidden:
            out[-1].append(token)
        elif out[-1]:
            out.append([])
    decode = tokenizer.base_tokenizer.tokenizer.decode
    return [decode(ids, skip_special_tokens=False) for ids in out if ids]


class TestBaseTokenizer:
    def test_bos_and_eos_only_where_asked_for(self, base: HuggingFaceBaseTokenizer) -> None:
        ids = base.encode("hello", add_bos=False, add_eos=False)
        assert base.encode("hello") == [base.bos_id, *ids, base.eos_id]
        assert base.bos_id not in ids

    def test_no_bos_although_the_file_adds_one(self, hf_folder: Path, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, processors

        rust = Tokenizer.from_file(str(hf_folder / "tokenizer.json"))
        pair = ("<s>", rust.token_to_id("<s>"))
        rust.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[pair])
        rust.save(str(tmp_path / "tokenizer.json"))
        path = str(hf_folder / "tokenizer_config.json")
        tokenizer = HuggingFaceBaseTokenizer(str(tmp_path / "tokenizer.json"), tokenizer_config_json_path=path)
        assert tokenizer.bos_id not in tokenizer.encode("hello", add_bos=False)
        assert tokenizer.encode("hello", add_bos=True).count(tokenizer.bos_id) == 1

    def test_bos_also_where_the_text_holds_its_string(self, base: HuggingFaceBaseTokenizer) -> None:
        ids = base.encode("no <s> here", add_bos=True, add_eos=False)
        assert ids[0] == base.bos_id and ids.count(base.bos_id) == 1
        assert base.decode(ids) == "no <s> here"

    def test_a_config_with_bos_null_loads(self, hf_folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "tokenizer_config.json"
        path.write_text('{"bos_token": null, "eos_token": "</s>"}')
        tokenizer = HuggingFaceBaseTokenizer(str(hf_folder / "tokenizer.json"), tokenizer_config_json_path=str(path))
        assert tokenizer.bos_id is None
        assert tokenizer.encode("hello")[-1] == tokenizer.eos_id

    def test_ids_from_a_generation_config(self, hf_folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "generation_config.json"
        path.write_text('{"bos_token_id": 3, "eos_token_id": [5, 6]}')
        tokenizer = HuggingFaceBaseTokenizer(str(hf_folder / "tokenizer.json"), generation_config_path=str(path))
        assert (tokenizer.bos_id, tokenizer.eos_id) == (3, 5)

    def test_without_any_config_it_is_refused(self, hf_folder: Path) -> None:
        with pytest.raises(ValueError, match="At least one of"):
            HuggingFaceBaseTokenizer(str(hf_folder / "tokenizer.json"))

    @settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
    @given(parts=st.lists(st.one_of(st.sampled_from(SPECIAL + TAGS), st.text(max_size=6)), max_size=6))
    def test_text_never_becomes_a_control_token(self, base: HuggingFaceBaseTokenizer, parts: list[str]) -> None:
        text = "".join(parts)
        ids = base.encode(text, add_bos=False, add_eos=False)
        assert set(base.control_ids.values()).isdisjoint(ids)
        assert base.decode(ids) == text

    @pytest.mark.parametrize("kind", ["unigram", "wordlevel"])
    def test_nor_in_vocabularies_that_hold_it_as_a_word(self, kind: str, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers

        words = ["<unk>", "</s>", "hi", *"<>/sh i"]
        if kind == "unigram":
            rust = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
        else:
            rust = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
            rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        rust.add_special_tokens(["</s>"])
        rust.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
        tokenizer = HuggingFaceBaseTokenizer(
            str(tmp_path / "tokenizer.json"), tokenizer_config_json_path=str(tmp_path / "tokenizer_config.json")
        )
        ids = tokenizer.encode("hi </s>", add_bos=False, add_eos=False)
        assert tokenizer.eos_id not in ids and ids[0] == words.index("hi")

    def test_white_space_tokens_stay_text(self, hf_folder: Path, tmp_path: Path) -> None:
        from tokenizers import AddedToken, Tokenizer

        rust = Tokenizer.from_file(str(hf_folder / "tokenizer.json"))
        rust.add_tokens([AddedToken("\n\n\n", normalized=False), AddedToken("<table>", normalized=False)])
        rust.save(str(tmp_path / "tokenizer.json"))
        path = str(hf_folder / "tokenizer_config.json")
        tokenizer = HuggingFaceBaseTokenizer(str(tmp_path / "tokenizer.json"), tokenizer_config_json_path=path)
        ids = tokenizer.encode("a\n\n\n<table>", add_bos=False, add_eos=False)
        assert ids[1:] == [rust.token_to_id("\n\n\n"), rust.token_to_id("<table>")]


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


class TestModelTokenizer:
    def test_stop_tokens_come_from_config_and_template(self, model: Any, hf_folder: Path) -> None:
        tokenizer = model("generation")
        assert tokenizer.stop_tokens == [tokenizer.special_tokens["</s>"], tokenizer.special_tokens["<|im_end|>"]]

    def test_the_last_token_stays_without_eos(self, model: Any) -> None:
        messages = chat(structured=False)
        whole = model("generation").tokenize_messages(messages, add_eos=False)[0]
        assert model("generation").tokenize_messages(messages, False, len(whole))[0] == whole
        assert whole[-1] != model("generation").eos_id

    def test_a_limit_in_the_call_is_for_this_call(self, model: Any) -> None:
        tokenizer = model("generation")
        messages = chat(structured=False)
        assert len(tokenizer.tokenize_messages(messages, True, 30)[0]) <= 30
        assert len(tokenizer.tokenize_messages(messages)[0]) > 30

    def test_it_is_a_transform(self, model: Any) -> None:
        sample = model("rewrites")({"messages": chat(), "tools": json.dumps([TOOL])})
        assert set(sample) == {"tokens", "mask"} and len(sample["tokens"]) == len(sample["mask"])

    def test_inference_ends_in_the_prompt(self, model: Any) -> None:
        tokenizer = model("rewrites")
        tokens = tokenizer({"messages": chat()[:1]}, inference=True)["tokens"]
        assert tokenizer.decode(tokens, skip_special_tokens=False).endswith("<|im_start|>assistant\n")

    def test_it_reads_calls_back(self, model: Any) -> None:
        tokenizer = model("rewrites")
        emitted = stretches(tokenizer, chat(), [TOOL])[0]
        ids = tokenizer.base_tokenizer.tokenizer.encode(emitted, add_special_tokens=False).ids
        parsed = tokenizer.parse_tokens(ids)
        assert [(call.name, call.arguments) for call in parsed.tool_calls] == [
            ("get_weather", {"city": "Paris", "days": 2})
        ]
        assert parsed.complete

    def test_variables_for_the_template(self, model: Any) -> None:
        template = "{{ bos_token }}{{ eos_token }}{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}"
        tokenizer = model(template, template_options={"mood": "calm"})
        assert tokenizer.render_template([{"role": "user", "content": "x"}]) == "<s></s>calmx"
        variables = tokenizer.extract_top_level_variables({"eos_token": {"content": "</s>"}, "n": 3, "deep": {"a": 1}})
        assert variables == {"eos_token": "</s>", "n": 3}

    def test_the_template_for_tools_is_used_where_there_are_tools(self, hf_folder: Path, tmp_path: Path) -> None:
        config = json.loads((hf_folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [
            {"name": "default", "template": "plain {% for m in messages %}{{ m.content }}{% endfor %}"},
            {"name": "tool_use", "template": "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}"},
        ]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = HuggingFaceModelTokenizer(
            str(hf_folder / "tokenizer.json"), tokenizer_config_json_path=str(tmp_path / "tokenizer_config.json")
        )
        assert tokenizer.render_template([{"role": "user", "content": "x"}]) == "plain x"
        assert "get_weather" in tokenizer.render_template([{"role": "user", "content": "x"}], tools=[TOOL])

    def test_a_template_file_beside_the_tokenizer_is_found(self, hf_folder: Path, tmp_path: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((hf_folder / name).read_bytes())
        (tmp_path / "chat_template.jinja").write_text("file {{ messages[0].content }}")
        tokenizer = HuggingFaceModelTokenizer(
            str(tmp_path / "tokenizer.json"), tokenizer_config_json_path=str(tmp_path / "tokenizer_config.json")
        )
        assert tokenizer.render_template([{"role": "user", "content": "x"}]) == "file x"

    def test_the_date_may_be_in_a_template(self, model: Any) -> None:
        template = "{{ strftime_now('%Y %f') }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        tokens, _ = model(template).tokenize_messages(chat(structured=False))
        assert tokens

    def test_parallel_calls_keep_their_order_and_whole_turns_are_cut(self, model: Any) -> None:
        messages = chat()
        tokenizer = model(
            "rewrites", max_seq_len=len(model("rewrites").tokenize_messages(messages, tools=[TOOL])[0]) - 1
        )
        found = tokenizer.tokenize_chat(messages, tools=[TOOL])
        assert sorted({index for index in found.message_index if index is not None}) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<|header_start|>{{ messages }}", "llama4"),
        ("[AVAILABLE_TOOLS][SYSTEM_PROMPT][TOOL_CONTENT]{{ messages }}", "mistral_v7"),
        ("{{ messages }}", "qwen3"),
    ],
)
def test_the_format_that_reads_a_model_is_found_from_its_template(model: Any, template: str, name: str) -> None:
    assert model(template).format.name == name


def test_or_is_named(model: Any) -> None:
    assert model("{{ messages }}", chat_format="hermes").format.name == "hermes"
