"""Errors that callers of torchtune match by their words: the words stay, whatever else a message says."""

from __future__ import annotations

import pydoc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SIZES = {"vocab_size": 9, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "embed_dim": 4, "max_seq_len": 4}


def call(path: str, *args: Any, **kwargs: Any) -> Any:
    """Call a name of the package."""
    return pydoc.locate(f"torchtune.{path}")(*args, **kwargs)  # type: ignore[operator]


def validate(*roles: str, ipython: bool = False) -> None:
    messages = [call("data.Message", role=role, content="x", ipython=ipython and role == "assistant") for role in roles]
    call("data.validate_messages", messages)


def columns(name: str, *given: str, **kwargs: Any) -> Any:
    return call(f"data.{name}", column_map=dict.fromkeys(given, "x"), **kwargs)


def decoder(caches: bool = False) -> Any:
    model = call("models.llama2.llama2", **SIZES)
    if caches:
        model.setup_caches(1, torch.float32)
    return model


def forward(caches: bool, **kwargs: Any) -> Any:
    return decoder(caches)(torch.zeros(1, 2, dtype=torch.long), **kwargs)


IDS, NF4 = torch.zeros(1, 2, dtype=torch.long), {"quantize_base": False, "scaler_block_size": 2}
CHECKPOINTS = "training.checkpointing._utils."
CONFIG = "config._utils."
LORA: dict[str, Any] = {**SIZES, "intermediate_dim": 4, "lora_rank": 1, "lora_alpha": 1.0}

PHRASES: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (Exception, r"Invalid path: ''", lambda: call(CONFIG + "_get_component_from_path", "")),
    (Exception, r"Invalid path: '123'", lambda: call(CONFIG + "_get_component_from_path", "123")),
    (
        Exception,
        r"Could not resolve 'nonexistent': not a module and not found in the caller's globals\.",
        lambda: call(CONFIG + "_get_component_from_path", "nonexistent"),
    ),
    (Exception, r"Could not import module 'os\.nonexistent': .*", lambda: call(CONFIG + "_get_component_from_path", "os.nonexistent.b")),
    (Exception, r"Module 'os\.path' has no attribute 'nonexistent'", lambda: call(CONFIG + "_get_component_from_path", "os.path.nonexistent")),
    (ValueError, r"Relative imports are not supported.", lambda: call(CONFIG + "_get_component_from_path", "a..b")),
    (ValueError, r"Removing components from CLI is not supported", lambda: call(CONFIG + "_remove_key_by_dotpath", {"a": {"_component_": "b"}}, "a")),
    (TypeError, r"'int' object is not subscriptable", lambda: call(CONFIG + "_remove_key_by_dotpath", {"a": 1}, "a.b.c")),
    (KeyError, r"'i'", lambda: call(CONFIG + "_remove_key_by_dotpath", {"a": {"b": 1}}, "a.i.c")),
    (Exception, r"Cannot instantiate specified object", lambda: call("config.instantiate", {"a": 1})),
    (ValueError, r"instantiate only supports DictConfigs or dicts, got <class 'str'>", lambda: call("config.instantiate", "a")),
    (ValueError, r"pad_to_multiple_of=5 is not supported for pad_direction='left'", lambda: call("data.padded_collate", [{"a": [1]}], pad_direction="left", keys_to_pad=["a"], padding_idx=0, pad_to_multiple_of=5)),
    (ValueError, r"does not match number of image tags", lambda: call("data.format_content_with_images", "<i>", image_tag="<i>", images=[])),
    (ValueError, r"Failed to load local image as torch.Tensor", lambda: call("data.load_image", "/nowhere.png")),
    (ValueError, r"System message at index 1 in messages, but system messages must come first", lambda: validate("user", "system", "assistant")),
    (ValueError, r"Messages must be at least length 2, but got 1 messages", lambda: validate("user")),
    (ValueError, r"Two consecutive user messages at index 1 and 0 in messages", lambda: validate("user", "user")),
    (ValueError, r"Assistant message before expected user, tool or ipython message at index 0 in messages", lambda: validate("assistant", "user")),
    (ValueError, r"Tool or ipython message at index 2 must follow an ipython message", lambda: validate("user", "assistant", "tool")),
    (ValueError, r"Only assistant messages can be tool calls. Found role user in message: hello world", lambda: call("data.Message", role="user", content="hello world", ipython=True)),
    (ValueError, r"Media tokens in tool calls are not supported. Both are set in message: ", lambda: call("data.Message", role="assistant", content=[{"type": "image", "content": "x"}], ipython=True)),
    (ValueError, r"Please specify an 'image' key in column_map", lambda: columns("ShareGPTToMessages", "conversations", image_dir=Path("."))),
    (ValueError, r"Expected a key of 'input'", lambda: columns("InputOutputToMessages", "output")),
    (ValueError, r"Expected a key of 'output'", lambda: columns("InputOutputToMessages", "input")),
    (ValueError, r"Expected a key of 'chosen'", lambda: columns("ChosenRejectedToMessages", "rejected")),
    (ValueError, r"Expected a key of 'rejected'", lambda: columns("ChosenRejectedToMessages", "chosen")),
    (ValueError, r"Expected a key of 'conversations'", lambda: columns("ShareGPTToMessages", "x")),
    (ValueError, r"Expected a key of 'messages'", lambda: columns("OpenAIToMessages", "x")),
    (ValueError, r"Expected a key of 'instruction'", lambda: columns("AlpacaToMessages", "x")),
    (ValueError, r"'some_invalid_strategy' is not a valid MaskingStrategy", lambda: call("data.mask_messages", [], "some_invalid_strategy")),
    (ValueError, r"Prompt template must be a dotpath string or dictionary with custom template", lambda: call("data._prompt_templates._get_prompt_template", 3)),
    (ValueError, r"Multimodal datasets don't support packing yet.", lambda: call("datasets.multimodal.vqa_dataset", None, source="x", packed=True)),
    (ValueError, r"Packed is currently not supported for preference datasets", lambda: call("datasets.hh_rlhf_helpful_dataset", None, packed=True)),
    (ValueError, r"Packed is currently not supported for preference datasets.", lambda: call("datasets.preference_dataset", None, source="x", packed=True)),
    (ValueError, r"Dataset sample is too long", lambda: call("datasets.PackedDataset", [{"tokens": [1] * 9, "labels": [1] * 9}], max_seq_len=4)),
    (ValueError, r"Must pass one or more of", lambda: call("models.llama2._component_builders.lora_llama2_self_attention", [], num_heads=1, num_kv_heads=1, embed_dim=4, max_seq_len=4, lora_rank=1, lora_alpha=1.0)),
    (ValueError, r"System prompts are not supported in MistralChatTemplate", lambda: call("models.mistral.MistralChatTemplate")([call("data.Message", role="system", content="x")])),
    (ValueError, r"``quantize_base`` is False, but received the following quantization arguments", lambda: call("modules.peft.LoRALinear", 4, 4, 1, 1.0, **NF4)),
    (ValueError, r"``quantize_base`` is False, but received the following quantization arguments", lambda: call("modules.peft.DoRALinear", 4, 4, 1, 1.0, **NF4)),
    (RuntimeError, r"Cannot initialize DoRA magnitude", lambda: call("modules.peft.DoRALinear", 4, 4, 1, 1.0).to("meta").initialize_dora_magnitude()),
    (ValueError, r"Model caches must be not setup", lambda: call("modules.local_kv_cache", decoder(True), batch_size=1, device=torch.device("cpu"), dtype=torch.float32).__enter__()),
    (ValueError, r"You have tried to delete model caches", lambda: call("modules.delete_kv_caches", decoder())),
    (ValueError, r"Model caches must be setup", lambda: call("modules.disable_kv_cache", decoder()).__enter__()),
    (RuntimeError, r"Key value caches are not setup", lambda: decoder().reset_caches()),
    (ValueError, r"masks must be provided", lambda: forward(True)),
    (ValueError, r"input positions must be provided!", lambda: forward(True, mask=torch.ones(1, 2, 4, dtype=torch.bool))),
    (ValueError, r"Unable to load checkpoint from", lambda: call(CHECKPOINTS + "safe_torch_load", Path("/nowhere.pt"))),
    (AssertionError, r"Expected output.weight in state_dict", lambda: call("training.update_state_dict_for_classifier", {}, decoder().named_parameters())),
    (AssertionError, r"Expected output.weight in model_named_parameters", lambda: call("training.update_state_dict_for_classifier", {"output.weight": IDS}, [])),
    (ValueError, r"Must pass 'filename_format'", lambda: call("training.FormattedCheckpointFiles.from_dict", {})),
    (ValueError, r"`max_filename` must be a string", lambda: call("training.FormattedCheckpointFiles", "{}{}", 3)),
    (ValueError, r"must have exactly two placeholders", lambda: call("training.FormattedCheckpointFiles", "{}", "3")),
    (ValueError, r"The output directory cannot be the same as or a subdirectory of the checkpoint directory.", lambda: call(CHECKPOINTS + "check_outdir_not_in_ckptdir", "/a", "/a/b")),
    (ValueError, r"keep_last_n_checkpoints must be greater than or equal to 1", lambda: call(CHECKPOINTS + "prune_surplus_checkpoints", [], 0)),
    (RuntimeError, r"Unexpected param or buffer", lambda: call("training.validate_no_params_on_meta_device", nn.Linear(1, 1, device="meta"))),
    (ValueError, r"has dtype torch.float32", lambda: call("training.validate_expected_param_dtype", nn.Linear(1, 1).named_parameters(), torch.float64)),
    (ValueError, r"Invalid seed value provided", lambda: call("training.set_seed", -1)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "phrase", "trigger"), PHRASES, ids=[phrase for _, phrase, _ in PHRASES])
def test_an_error_has_the_words_that_callers_look_for(
    error: type[Exception], phrase: str, trigger: Callable[[], Any]
) -> None:
    with pytest.raises(error, match=phrase):
        trigger()
