"""The files of a tiny Hugging Face model, and tokenizers of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchtune.modules.transforms.tokenizers import HuggingFaceBaseTokenizer, HuggingFaceModelTokenizer

sys.path.insert(0, str(Path(__file__).parent))

from _tiny_hf import SPECIAL, TAGS, TEMPLATES


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
