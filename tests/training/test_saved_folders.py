"""A checkpoint folder is all that serving needs: transformers and peft load it, and its tokenizer writes what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from torchtune.data import Message
from torchtune.training import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    MODEL_KEY,
    FullModelHFCheckpointer,
    get_adapter_config,
)

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

ROWS = [
    {"role": "user", "content": "What is the  weather\nin Paris?"},
    {"role": "assistant", "content": "It is 21 degrees, naïve 東京."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "sunny"},
]
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 256,
}  # fmt: skip
_EACH = "{{ bos_token }}{% for m in messages %}"
TEMPLATES = {
    "llama3": _EACH + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}",
    "mistral": _EACH
    + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
}  # fmt: skip
CONFIGS = {"llama3": "LlamaConfig", "mistral": "MistralConfig"}
FAMILIES = sorted(TEMPLATES)


def llama3_files(folder: Path, bpe_folder: Path, tiktoken_file: str) -> Any:
    """The tiny BPE with Llama 3's special tokens, in both of its forms; gives our tokenizer."""
    from tokenizers import AddedToken, Tokenizer

    from torchtune.models.llama3 import llama3_tokenizer
    from torchtune.models.llama3._tokenizer import LLAMA3_SPECIAL_TOKENS

    rust = Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
    rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in LLAMA3_SPECIAL_TOKENS])
    rust.save(str(folder / "tokenizer.json"))
    added = [{"id": rust.token_to_id(name), "content": name} for name in LLAMA3_SPECIAL_TOKENS]
    (folder / "special.json").write_text(json.dumps({"added_tokens": added}))
    shutil.copy(tiktoken_file, folder / "tokenizer.model")
    return llama3_tokenizer(tiktoken_file, special_tokens_path=str(folder / "special.json"), chat_format="llama3")


@pytest.fixture
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A tiny random model with its tokenizer, as a hub has it; and our tokenizer of its family."""
    from torchtune.models.mistral import mistral_tokenizer

    name, folder = request.param, tmp_path / "base"
    folder.mkdir()
    settings: dict[str, Any] = {"chat_template": TEMPLATES[name], "unk_token": "<unk>", "add_bos_token": False}
    if name == "llama3":
        ours = llama3_files(folder, *(request.getfixturevalue(f) for f in ("bpe_folder", "tiktoken_file")))
        settings = {
            "chat_template": TEMPLATES[name], "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        }  # fmt: skip
    else:
        spm = request.getfixturevalue("spm_file")
        shutil.copy(spm, folder / "tokenizer.model")
        settings |= {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer", "legacy": False}
        ours = mistral_tokenizer(spm, chat_format="official")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = getattr(transformers, CONFIGS[name])(**SIZES, vocab_size=1024)
    config.dtype = torch.float32
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder, ours


def check_tokens(folder: Path, ours: Any) -> torch.Tensor:
    """Holds that the folder's tokenizer and template give the tokens of training."""
    tokens, _ = ours.tokenize_messages([Message(row["role"], row["content"]) for row in ROWS])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.apply_chat_template(ROWS, return_dict=False) == tokens
    return torch.tensor([tokens])


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_a_full_checkpoint_loads_in_transformers_with_the_tokens_of_training(family, tmp_path):
    from torchtune.models import from_pretrained

    source, ours = family
    model = from_pretrained(source).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    FullModelHFCheckpointer(str(source), [], "AUTO", str(tmp_path / "out")).save_checkpoint(
        {MODEL_KEY: model.state_dict()}, epoch=0
    )
    folder = tmp_path / "out" / "epoch_0"
    tokens = check_tokens(folder, ours)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
        torch.testing.assert_close(model(tokens), theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_an_adapter_loads_in_peft_with_the_tokens_of_training(family, tmp_path):
    peft = pytest.importorskip("peft")
    from torchtune.models import from_pretrained
    from torchtune.modules.peft import get_adapter_state_dict

    source, ours = family
    model = from_pretrained(
        source, lora={"lora_attn_modules": ["q_proj", "v_proj"], "lora_rank": 4, "lora_alpha": 8}
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    state = {ADAPTER_KEY: get_adapter_state_dict(model.state_dict()), ADAPTER_CONFIG: get_adapter_config(model)}
    FullModelHFCheckpointer(str(source), [], "AUTO", str(tmp_path / "out")).save_checkpoint(
        state, epoch=0, adapter_only=True
    )
    folder = tmp_path / "out" / "epoch_0"
    tokens = check_tokens(folder, ours)
    with torch.no_grad():
        base = transformers.AutoModelForCausalLM.from_pretrained(source)
        theirs = peft.PeftModel.from_pretrained(base, folder).eval()(tokens).logits
        torch.testing.assert_close(model(tokens), theirs, atol=2e-5, rtol=2e-5)
