"""The table of formats: one row each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._base import ChatFormat


@dataclass(frozen=True)
class Row:
    """Where a format is written.

    Args:
        file: module in this package.
        cls: class in it.
        about: the models that use it, in words.
        options: options bound to this name.
    """

    file: str
    cls: str
    about: str
    options: dict[str, Any] = field(default_factory=dict)


FORMATS: dict[str, Row] = {
    "chatml": Row("_qwen", "ChatML", "ChatML with <tool_call> text, for models without a format of their own"),
    "deepseek_v3_1": Row("_deepseek", "DeepSeekV3_1", "DeepSeek V3.1, without thinking"),
    "gemma": Row("_gemma", "Gemma2", "Gemma 1 Instruct and CodeGemma"),
    "gemma2": Row("_gemma", "Gemma2", "Gemma 2 Instruct"),
    "gemma3": Row("_gemma", "Gemma3", "Gemma 3 Instruct"),
    "gemma4": Row("_gemma4", "Gemma4", "Gemma 4"),
    "glm4_5": Row("_glm", "Glm4_5", "GLM 4.5"),
    "glm4_6": Row("_glm", "Glm4_5", "GLM 4.6"),
    "gpt_oss": Row("_gpt_oss", "GptOss", "gpt-oss 20b and 120b"),
    "granite4": Row("_granite", "Granite4", "Granite 4.0"),
    "hermes": Row("_hermes", "Hermes", "Hermes 2 Pro and Hermes 3"),
    "kimi_k2": Row("_kimi", "KimiK2", "Kimi K2 Instruct"),
    "lfm2": Row("_lfm2", "Lfm2", "LFM 2"),
    "llama2": Row("_llama", "Llama2", "Llama 2 Chat and CodeLlama Instruct"),
    "llama3": Row("_llama", "Llama3", "Llama 3 8B and 70B Instruct"),
    "llama3_1": Row("_llama", "Llama3_1", "Llama 3.1 Instruct"),
    "llama3_2": Row("_llama", "Llama3_2", "Llama 3.2 Instruct, text and vision"),
    "llama3_3": Row("_llama", "Llama3_1", "Llama 3.3 Instruct"),
    "llama3_meta": Row("_llama", "Llama3Meta", "Llama 3.1 and later, as Meta's own library encodes them"),
    "llama4": Row("_llama", "Llama4", "Llama 4 Instruct"),
    "mistral_v3": Row("_mistral", "MistralV3", "Mistral 7B Instruct v0.3, Mixtral 8x22B: tokenizer version 3"),
    "mistral_v7": Row("_mistral", "MistralV7", "Mistral Large 2411: tokenizer version 7"),
    "mistral_v11": Row("_mistral", "MistralV11", "Mistral Small 3.2, Devstral: tokenizer version 11"),
    "mistral_v13": Row("_mistral", "MistralV13", "Magistral 2507 and later: tokenizer version 13"),
    "nemotron3": Row("_qwen_xml", "Nemotron3", "Nemotron 3 Nano"),
    "phi3": Row("_phi", "Phi3", "Phi 3 and Phi 3.5 Mini Instruct"),
    "phi4": Row("_phi", "Phi4", "Phi 4"),
    "qwen2": Row("_qwen", "Qwen2", "Qwen 2 Instruct"),
    "qwen2_5": Row("_qwen", "Qwen2_5", "Qwen 2.5 Instruct and Coder"),
    "qwen3": Row("_qwen", "Qwen3", "Qwen 3 with hybrid thinking"),
    "qwen3_instruct_2507": Row("_qwen", "Qwen3Instruct", "Qwen 3 2507 Instruct"),
    "qwen3_5": Row("_qwen_xml", "Qwen3_5", "Qwen 3.5"),
    "qwen3_6": Row("_qwen_xml", "Qwen3_6", "Qwen 3.6"),
    "qwen3_coder": Row("_qwen_xml", "Qwen3Coder", "Qwen 3 Coder"),
    "smollm2": Row("_qwen", "SmolLM2", "SmolLM 2 Instruct"),
    "smollm3": Row("_smollm3", "SmolLM3", "SmolLM 3"),
}


def get_format(name: str, **options: Any) -> ChatFormat:
    """The chat format of this name.

    Args:
        name: a name in :data:`FORMATS`, such as ``"llama3_1"``.
        **options: options of ``render`` that the format shall use instead of the family's defaults.

    Raises:
        ValueError: if there is no format of this name, or an option is unknown.
    """
    row = FORMATS.get(name)
    if row is None:
        near = get_close_matches(str(name), FORMATS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"No chat format {name!r}.{hint} There are: {', '.join(list_formats())}.")
    cls = getattr(importlib.import_module(f"{__package__}.{row.file}"), row.cls)
    return cls(name, **{**row.options, **options})


def list_formats() -> list[str]:
    """The names of all chat formats, sorted."""
    return sorted(FORMATS)
