"""Token ids of whole conversations with the real vocabularies; needs them in the folder TORCHTUNE_VOCAB_DIR.

The ids are what each vendor's own tokenizer made of its own chat template. Left out are rows whose text our formats write
differently on purpose, and rows in which text of a user looks like a control token, which ours never make one.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from torchtune.data import Message, ToolCall
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.llama4 import Llama4Tokenizer
from torchtune.models.mistral import MistralTokenizer, tekken_tokenizer
from torchtune.models.qwen2_5 import Qwen2_5Tokenizer
from torchtune.models.qwen3 import Qwen3Tokenizer
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer
from torchtune.modules.transforms.tokenizers._bpe import byte_letters

pytestmark = [pytest.mark.parity, pytest.mark.slow]
ASSETS = Path(__file__).parents[1] / "assets"


@cache
def rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(ASSETS / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def messages_of(conversation: dict[str, Any]) -> list[Message]:
    out = []
    for row in conversation["messages"]:
        content = row.get("content")
        if isinstance(content, list):
            content = [{"type": "text", "content": part["text"]} for part in content]
        elif content is not None and not isinstance(content, str):
            content = [{"type": "json", "content": content}]
        calls = []
        for call in row.get("tool_calls") or []:
            function = call.get("function", call)
            given = function.get("arguments") or {}
            arguments = json.loads(given) if isinstance(given, str) else given
            calls.append(ToolCall(function["name"], arguments, call.get("id")))
        reasoning = row.get("reasoning_content")
        names = {"tool_call_id": row.get("tool_call_id"), "name": row.get("name")}
        out.append(Message(row["role"], content or "", tool_calls=calls or None, reasoning_content=reasoning, **names))
    return out


@pytest.fixture(scope="session")
def qwen_files(vocab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """vocab.json and merges.txt from the tiktoken file that Qwen publishes."""
    lines = (line.split() for line in (vocab_dir / "qwen.tiktoken").read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = {byte: chr(letter) for letter, byte in byte_letters().items()}
    merges = ["#version: 0.2"]
    for token, rank in ranks.items():
        pieces = [token[i : i + 1] for i in range(len(token))]
        while len(pieces) > 2:
            joined = [ranks.get(a + b, rank) for a, b in zip(pieces, pieces[1:], strict=False)]
            at = joined.index(min(joined))
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        if len(pieces) == 2:
            merges.append(" ".join("".join(letters[byte] for byte in piece) for piece in pieces))
    folder = tmp_path_factory.mktemp("qwen")
    vocab = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return {"path": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}


def make(golden: str, vocab_dir: Path, qwen_files: Callable[[], dict[str, str]]) -> Any:
    llama = str(vocab_dir / "llama3.tokenizer.model")
    mistral = {"chat_format": "official", "format_options": {"results": "json"}}
    makers: dict[str, Callable[[], Any]] = {
        "llama3.1_hf": lambda: Llama3Tokenizer(llama, chat_format="llama3_1"),
        "llama3.2_hf": lambda: Llama3Tokenizer(llama, chat_format="llama3_2"),
        "llama3.3_hf": lambda: Llama3Tokenizer(llama, chat_format="llama3_3"),
        "llama4_hf": lambda: Llama4Tokenizer(str(vocab_dir / "llama4.tokenizer.model"), chat_format="official"),
        "qwen2.5": lambda: Qwen2_5Tokenizer(**qwen_files(), chat_format="official"),
        "qwen3": lambda: Qwen3Tokenizer(**qwen_files(), chat_format="official"),
        "qwen3_2507_instruct": lambda: Qwen3Tokenizer(**qwen_files(), chat_format="qwen3_instruct_2507"),
        "mistral_v3": lambda: MistralTokenizer(
            str(vocab_dir / "mistral_instruct_tokenizer_240323.model.v3"), **mistral
        ),
        "mistral_v7": lambda: MistralTokenizer(
            str(vocab_dir / "mistral_instruct_tokenizer_241114.model.v7"), **mistral
        ),
        "phi3": lambda: HuggingFaceModelTokenizer(
            str(vocab_dir / "phi3-mini.tokenizer.json"),
            tokenizer_config_json_path=str(vocab_dir / "phi-3-mini.tokenizer_config.json"),
        ),
    }
    return makers[golden]()


#: Golden file -> how many of its rows must agree.
EXPECTED = {
    "llama3.1_hf": 37,
    "llama3.2_hf": 35,
    "llama3.3_hf": 37,
    "llama4_hf": 44,
    "qwen2.5": 44,
    "qwen3": 44,
    "qwen3_2507_instruct": 43,
    "mistral_v3": 33,
    "mistral_v7": 38,
    "phi3": 10,
}


@pytest.mark.parametrize("golden", sorted(EXPECTED))
def test_ids_are_those_of_the_vendor(golden: str, vocab_dir: Path, request: pytest.FixtureRequest) -> None:
    tokenizer = make(golden, vocab_dir, lambda: request.getfixturevalue("qwen_files"))
    conversations = {row["id"]: row for row in rows("formats/conversations.jsonl.gz")}
    texts = {(row["golden"], row["id"]): row.get("text") for row in rows("formats/rendered.jsonl.gz")}
    agree = 0
    for row in rows("tokenizers/token_ids.jsonl.gz"):
        if (
            row["golden"] != golden
            or row["id"] not in conversations
            or row["id"].startswith(("special_text", "strargs"))
        ):
            continue
        conversation = conversations[row["id"]]
        try:
            segments = tokenizer._render(messages_of(conversation), conversation.get("tools"), False)
        except ValueError:
            continue
        text = "".join(segment.text for segment in segments)
        official = row.get("text", "").replace("▁", " ").replace("<0x0A>", "\n") or texts.get((golden, row["id"]))
        if text != official or (golden == "qwen3_2507_instruct" and "<think>" in text):
            continue
        assert tokenizer._encode_segments(segments).tokens == row["token_ids"], row["id"]
        agree += 1
    assert agree >= EXPECTED[golden]


def test_tekken_gives_the_ids_of_mistrals_own_tokenizer(vocab_dir: Path, tmp_path: Path) -> None:
    """The vocabulary of Ministral and Nemo comes with mistral-common; ours is the ``tokenizer.json`` made of it."""
    mistral_common = pytest.importorskip("mistral_common")
    convert = pytest.importorskip("transformers.integrations.mistral").convert_tekken_tokenizer
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as Official

    vocabulary = str(Path(mistral_common.__file__).parent / "data" / "tekken_240911.json")
    convert(vocabulary)._tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = tekken_tokenizer(
        str(tmp_path / "tokenizer.json"), chat_format="mistral_v3_tekken", format_options={"call_ids": "derive"}
    )
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
    rows: list[dict[str, Any]] = [
        {"role": "user", "content": "Wie ist das Wetter in Zürich? [INST] 你好"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "22 °C"},
        {"role": "assistant", "content": "It is 22 °C."},
        {"role": "user", "content": "Thanks!"},
    ]
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}}]
    expected = Official.from_file(vocabulary).encode_chat_completion(ChatCompletionRequest(messages=rows, tools=tools))
    assert ours.prompt_tokens(messages_of({"messages": rows}), tools=tools) == expected.tokens
