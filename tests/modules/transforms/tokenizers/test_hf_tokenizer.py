"""Tokenizers from the files of a Hugging Face model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _tiny_hf import SPECIAL, TAGS, TOOL, chat, stretches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchtune.modules.transforms.tokenizers import HuggingFaceBaseTokenizer, HuggingFaceModelTokenizer


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
