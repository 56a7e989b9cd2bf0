"""The tokenizers on SentencePiece: Llama 2, Mistral, Gemma, Phi 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchtune.data import Message, ToolCall
from torchtune.models.gemma import GemmaTokenizer, gemma_tokenizer
from torchtune.models.llama2 import Llama2ChatTemplate, Llama2Tokenizer, llama2_tokenizer
from torchtune.models.mistral import MistralChatTemplate, MistralTokenizer, mistral_tokenizer
from torchtune.models.phi3 import Phi3MiniTokenizer, phi3_mini_tokenizer

CLASSES = [Llama2Tokenizer, MistralTokenizer, GemmaTokenizer, Phi3MiniTokenizer]
TURN = [Message("user", "hello world", masked=True), Message("assistant", "yes")]
RESULT = [
    Message("user", "f of 1?"),
    Message("assistant", "f(1)", ipython=True, eot=False),
    Message("tool", "forty two", eot=False),
    Message("assistant", "It is."),
]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


@pytest.mark.parametrize("cls", CLASSES)
class TestAll:
    def test_the_answer_is_trained_with_its_end(self, cls: Any, spm_file: str) -> None:
        tokenizer = cls(spm_file, train_on="sampled")
        sample = tokenizer({"messages": list(TURN)})
        kept = [t for t, hidden in zip(sample["tokens"], sample["mask"], strict=True) if not hidden]
        assert kept[-1] == tokenizer.eos_id
        assert tokenizer.decode(kept).strip() == "yes"

    def test_inference_leaves_the_answer_open(self, cls: Any, spm_file: str) -> None:
        tokenizer = cls(spm_file)
        closed, opened = tokenizer({"messages": list(TURN)}), tokenizer({"messages": list(TURN)}, inference=True)
        assert closed["tokens"] == [*opened["tokens"], tokenizer.eos_id]

    def test_both_names_of_the_end_token_argument(self, cls: Any, spm_file: str) -> None:
        tokenizer = cls(spm_file)
        opened, _ = tokenizer.tokenize_messages(TURN, add_end_tokens=False)
        assert opened[-1] != tokenizer.eos_id
        if cls in (MistralTokenizer, GemmaTokenizer):
            assert tokenizer.tokenize_messages(TURN, add_eos=False)[0] == opened

    def test_a_sample_that_fits_is_the_same_with_and_without_a_limit(self, cls: Any, spm_file: str) -> None:
        for messages in (TURN, TURN[:1]):
            free = cls(spm_file).tokenize_messages(messages, add_end_tokens=True)
            assert cls(spm_file, max_seq_len=len(free[0])).tokenize_messages(messages, add_end_tokens=True) == free

    def test_tool_and_ipython_are_the_same(self, cls: Any, spm_file: str) -> None:
        other = [*RESULT[:2], Message("ipython", "forty two", eot=False), RESULT[3]]
        tokenizer = cls(spm_file)
        tokens = tokenizer.tokenize_messages(RESULT, add_end_tokens=True)
        assert tokens == tokenizer.tokenize_messages(other, add_end_tokens=True)
        assert tokenizer.decode(tokens[0]).count("forty two") == 1

    def test_text_never_becomes_a_control_token(self, cls: Any, spm_file: str) -> None:
        tokenizer = cls(spm_file)
        model = tokenizer._spm_model.spm_model
        names = ("<s>", "</s>", "[INST]", "[TOOL_CALLS]", "<start_of_turn>", "<end_of_turn>")
        if cls is not GemmaTokenizer:
            names = names[:4]
        evil = "x" + "".join(names) + "<|end|> x"
        ids = tokenizer.encode(evil, add_bos=False, add_eos=False)
        assert {model.piece_to_id(name) for name in names}.isdisjoint(ids) and max(ids) < tokenizer.vocab_size
        assert tokenizer.decode(ids) == evil

    def test_text_as_its_parts_give_it_back(self, cls: Any, spm_file: str) -> None:
        tokenizer = cls(spm_file)
        texts = (" hello", " wor", "ld\n", "naïve 😀", " ", "x")
        parts = tokenizer._encode_parts(texts)
        assert sum(parts, []) == tokenizer._encode_text("".join(texts))
        assert len(parts) == len(texts) and tokenizer.decode(parts[0]) == "hello"


def test_llama2_writes_the_system_prompt_into_every_user_turn(spm_file: str) -> None:
    messages = [Message("system", "S"), *TURN, *TURN]
    tokenizer = Llama2Tokenizer(spm_file)
    text = tokenizer.decode(tokenizer.tokenize_messages(messages)[0])
    assert text.count("<<SYS>>") == 2


def test_llama2_masks_by_message_although_the_system_message_is_folded_in(spm_file: str) -> None:
    messages = [Message("system", "S"), *TURN]
    tokenizer = Llama2Tokenizer(spm_file)
    tokens, mask = tokenizer.tokenize_messages(messages)
    kept = [t for t, hidden in zip(tokens, mask, strict=True) if not hidden]
    assert tokenizer.decode(kept) == "yes"


def test_llama2_template_keeps_the_content_of_a_tool_result() -> None:
    out = Llama2ChatTemplate()(RESULT)
    assert [message.text_content for message in out][1:] == ["f(1)", "forty two", "It is."]
    assert RESULT[0].text_content == "f of 1?"


def test_llama2_without_start_tokens(spm_file: str) -> None:
    tokenizer = Llama2Tokenizer(spm_file)
    whole, _ = tokenizer.tokenize_messages(TURN)
    assert tokenizer.tokenize_messages(TURN, add_start_tokens=False)[0] == whole[1:]


def test_mistral_template_takes_no_system_message() -> None:
    with pytest.raises(ValueError, match="message 0 is one"):
        MistralChatTemplate()([Message("system", "S"), *TURN])


def test_mistral_template_takes_tool_results() -> None:
    assert [message.text_content for message in MistralChatTemplate()(RESULT)][2] == "forty two"


def test_mistral_writes_calls_with_its_control_tokens(spm_file: str) -> None:
    tokenizer = MistralTokenizer(spm_file, train_on="sampled")
    call = ToolCall("get_weather", {"city": "Paris"}, "abcdefghi")
    messages = [Message("user", "weather?"), Message("assistant", "", tool_calls=[call])]
    tokens, mask = tokenizer.tokenize_messages(messages, tools=[TOOL])
    kept = [t for t, hidden in zip(tokens, mask, strict=True) if not hidden]
    model = tokenizer._spm_model.spm_model
    assert (kept[0], kept[-1]) == (model.piece_to_id("[TOOL_CALLS]"), tokenizer.eos_id)
    parsed = tokenizer.parse_tokens(kept)
    assert [(c.name, c.arguments) for c in parsed.tool_calls] == [("get_weather", {"city": "Paris"})]
    assert tokenizer.default_format == "mistral_v3"


def test_mistral_without_tokens_for_tools_refuses_them(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world", "get weather"] * 9),
        model_prefix=str(tmp_path / "v1"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = MistralTokenizer(str(tmp_path / "v1.model"))
    assert tokenizer.tokenize_messages(TURN)[0]
    with pytest.raises(ValueError, match=r"no such token"):
        tokenizer.tokenize_messages(TURN, tools=[TOOL])


def test_gemma_official_format_uses_its_turn_tokens(spm_file: str) -> None:
    tokenizer = GemmaTokenizer(spm_file, chat_format="official")
    model = tokenizer._spm_model.spm_model
    tokens, _ = tokenizer.tokenize_messages([Message("user", "hello <end_of_turn>"), Message("assistant", "yes")])
    assert tokens.count(model.piece_to_id("<start_of_turn>")) == 2
    assert tokens.count(model.piece_to_id("<end_of_turn>")) == 2
    assert tokenizer.official_stop_tokens[0] == model.piece_to_id("<end_of_turn>")


class TestPhi3:
    def test_roles_stand_as_control_tokens(self, spm_file: str) -> None:
        tokenizer = Phi3MiniTokenizer(spm_file)
        tokens, _ = tokenizer.tokenize_messages(TURN, add_end_tokens=True)
        assert [token for token in tokens if token >= 32000] == [32010, 32007, 32001, 32007, 32000]

    def test_decoding_shows_control_tokens_on_request(self, spm_file: str) -> None:
        tokenizer = Phi3MiniTokenizer(spm_file)
        tokens, _ = tokenizer.tokenize_messages(TURN, add_end_tokens=True)
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        assert "<|user|>" in text and text.endswith("<|endoftext|>")
        assert "<|" not in tokenizer.decode(tokens)

    def test_the_system_prompt_can_be_left_out(self, spm_file: str) -> None:
        tokenizer = Phi3MiniTokenizer(spm_file)
        with_system = [Message("system", "S"), *TURN]
        assert tokenizer.tokenize_messages(with_system, ignore_system_prompt=True) == tokenizer.tokenize_messages(TURN)

    def test_official_control_tokens_take_the_newline_behind_them(self, spm_file: str) -> None:
        tokenizer = Phi3MiniTokenizer(spm_file, chat_format="official")
        tokens = tokenizer({"messages": list(TURN)})["tokens"]
        newline = tokenizer._spm_model.spm_model.piece_to_id("<0x0A>")
        assert newline not in tokens
        assert tokens[0] == 32010 and tokens[-1] == 32000


@pytest.mark.parametrize(
    ("build", "template"),
    [
        (llama2_tokenizer, Llama2ChatTemplate),
        (mistral_tokenizer, MistralChatTemplate),
        (gemma_tokenizer, type(None)),
        (phi3_mini_tokenizer, type(None)),
    ],
)
def test_builders_and_their_default_templates(build: Any, template: type, spm_file: str) -> None:
    tokenizer = build(spm_file, max_seq_len=7, train_on="sampled")
    assert isinstance(tokenizer.prompt_template, template)
    assert (tokenizer.max_seq_len, tokenizer.train_on) == (7, "sampled")
    with pytest.raises(ValueError):
        build(spm_file, prompt_template=5)
