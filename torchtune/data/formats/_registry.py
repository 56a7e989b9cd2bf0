"""The table of formats, one row each, and how to find the format of a model."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ._base import ChatFormat
from ._hermes_style import own_template


@dataclass(frozen=True)
class Row:
    """A format: the module and class that write it, and how its models are known."""

    file: str
    cls: str
    about: str
    names: str  # pattern for the models' names in lower case, with ``-`` between their parts
    marks: tuple[str, ...] = ()  # strings that all stand in the official chat template
    without: tuple[str, ...] = ()  # strings that do not


_FUNCTION = ("<function=", "<|im_start|>")

FORMATS: dict[str, Row] = {
    "chatml": Row(
        *("_qwen", "ChatML", "ChatML with <tool_call> text, for models without a format of their own", r"chatml"),
        marks=("<|im_start|>",),
    ),
    "deepseek_v3_1": Row(
        *("_deepseek", "DeepSeekV3_1", "DeepSeek V3.1, without thinking", r"deepseek-v3-1"),
        marks=("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"),
    ),
    "gemma": Row("_gemma", "Gemma2", "Gemma 1 Instruct and CodeGemma", r"(code)?gemma(-1-1)?-\d+b"),
    "gemma2": Row(
        *("_gemma", "Gemma2", "Gemma 2 Instruct", r"gemma-?2-"),
        marks=("<start_of_turn>", "System role not supported"),
    ),
    "gemma3": Row(
        *("_gemma", "Gemma3", "Gemma 3 Instruct", r"gemma-?3n?-"),
        marks=("<start_of_turn>", "first_user_prefix"),
    ),
    "gemma4": Row("_gemma4", "Gemma4", "Gemma 4", r"gemma-?4-", marks=("<|turn>",)),
    "glm4_5": Row("_glm", "Glm4_5", "GLM 4.5", r"glm-4-5", marks=("[gMASK]<sop>", "<arg_key>")),
    "glm4_6": Row("_glm", "Glm4_5", "GLM 4.6", r"glm-4-6"),
    "gpt_oss": Row("_gpt_oss", "GptOss", "gpt-oss 20b and 120b", r"gpt-oss", marks=("<|channel|>", "<|start|>")),
    "granite4": Row("_granite", "Granite4", "Granite 4.0", r"granite-4", marks=("<|start_of_role|>", "<tool_call>")),
    "hermes": Row(
        *("_hermes", "Hermes", "Hermes 2 Pro and Hermes 3", r"hermes-(2-pro|3)"),
        marks=("You are a function calling AI model", "<|im_start|>"),
    ),
    "kimi_k2": Row("_kimi", "KimiK2", "Kimi K2 Instruct", r"kimi-k2", marks=("<|im_middle|>",)),
    "lfm2": Row("_lfm2", "Lfm2", "LFM 2", r"lfm-?2", marks=("<|tool_list_start|>", "<|im_start|>")),
    "llama2": Row(
        *("_llama", "Llama2", "Llama 2 Chat and CodeLlama Instruct", r"llama-?2-|codellama"),
        marks=("<<SYS>>",),
    ),
    "llama3": Row(
        *("_llama", "Llama3", "Llama 3 8B and 70B Instruct", r"llama-?3-(8b|70b)"),
        marks=("<|start_header_id|>",),
        without=("Cutting Knowledge Date",),
    ),
    "llama3_1": Row(
        *("_llama", "Llama3_1", "Llama 3.1 Instruct", r"llama-?3-1"),
        marks=("<|start_header_id|>", "Cutting Knowledge Date", "builtin_tools"),
    ),
    "llama3_2": Row(
        *("_llama", "Llama3_2", "Llama 3.2 Instruct, text and vision", r"llama-?3-2"),
        marks=("<|start_header_id|>", "Cutting Knowledge Date"),
        without=("builtin_tools",),
    ),
    "llama3_3": Row("_llama", "Llama3_1", "Llama 3.3 Instruct", r"llama-?3-3"),
    "llama3_meta": Row(
        "_llama", "Llama3Meta", "Llama 3.1 and later, as Meta's own library encodes them", r"llama3-meta"
    ),
    "llama4": Row("_llama", "Llama4", "Llama 4 Instruct", r"llama-?4-", marks=("<|header_start|>",)),
    "mistral_v3": Row(
        *("_mistral", "MistralV3", "Mistral 7B Instruct v0.3, Mixtral 8x22B: tokenizer version 3"),
        r"mistral-7b-instruct-v0-3|mixtral-8x22b-instruct|mistral-large-instruct-2407",
        marks=("[AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
        without=("[SYSTEM_PROMPT]",),
    ),
    "mistral_v3_tekken": Row(
        *("_mistral", "MistralV3Tekken", "Mistral Nemo, Ministral 8B: tokenizer version 3 with Tekken"),
        r"mistral-nemo|ministral-8b",
        marks=("[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_CALLS]["),
        without=("[SYSTEM_PROMPT]",),
    ),
    "mistral_v7": Row(
        *("_mistral", "MistralV7", "Mistral Large 2411: tokenizer version 7"),
        r"mistral-large-instruct-2411|pixtral-large",
        marks=("[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
        without=("[ARGS]",),
    ),
    "mistral_v7_tekken": Row(
        *("_mistral", "MistralV7Tekken", "Mistral Small 3 and 3.1: tokenizer version 7 with Tekken"),
        r"mistral-small-(24b-(instruct|base)-2501|3-1)",
        marks=("[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[TOOL_CALLS]["),
        without=("[ARGS]",),
    ),
    "mistral_v11": Row(
        *("_mistral", "MistralV11", "Mistral Small 3.2, Devstral: tokenizer version 11"),
        r"mistral-small-3-2|devstral-small",
        marks=("[SYSTEM_PROMPT]", "[ARGS]", "[CALL_ID]"),
    ),
    "mistral_v13": Row(
        *("_mistral", "MistralV13", "Magistral 2507 and later: tokenizer version 13"),
        r"magistral|ministral-3",
        marks=("[SYSTEM_PROMPT]", "[ARGS]"),
        without=("[CALL_ID]",),
    ),
    "nemotron3": Row(
        *("_qwen_xml", "Nemotron3", "Nemotron 3 Nano", r"nemotron-3"),
        marks=(*_FUNCTION, "truncate_history_thinking"),
    ),
    "phi3": Row("_phi", "Phi3", "Phi 3 and Phi 3.5 Mini Instruct", r"phi-3", marks=("<|end|>", "<|user|>")),
    "phi4": Row("_phi", "Phi4", "Phi 4", r"phi-4(?!-mini)", marks=("<|im_sep|>", "<|im_start|>")),
    "phi4_mini": Row("_phi", "Phi4Mini", "Phi 4 Mini Instruct", r"phi-4-mini", marks=("<|tool|>", "<|end|>")),
    "qwen2": Row(
        *("_qwen", "Qwen2", "Qwen 2 Instruct", r"qwen-?2-\d+b|qwen-?2-0-5b"),
        marks=("<|im_start|>", "You are a helpful assistant"),
        without=("tool", "function"),
    ),
    "qwen2_5": Row(
        *("_qwen", "Qwen2_5", "Qwen 2.5 Instruct and Coder", r"qwen-?2-5"),
        marks=("<|im_start|>", "<tool_call>", "You are Qwen, created by Alibaba Cloud"),
    ),
    "qwen3": Row(
        *("_qwen", "Qwen3", "Qwen 3 with hybrid thinking", r"qwen-?3-(\d+b|0-6b|1-7b)(?!.*(2507|coder))"),
        marks=("<|im_start|>", "<tool_call>", "enable_thinking", '"arguments"'),
    ),
    "qwen3_instruct_2507": Row(
        *("_qwen", "Qwen3Instruct", "Qwen 3 2507 Instruct", r"qwen-?3-.*instruct-2507"),
        marks=("<|im_start|>", "<tool_call>", "# Tools"),
        without=("enable_thinking", "reasoning_content", "You are Qwen", "<function="),
    ),
    "qwen3_5": Row("_qwen_xml", "Qwen3_5", "Qwen 3.5", r"qwen-?3-5", marks=(*_FUNCTION, "enable_thinking", "# Tools")),
    "qwen3_6": Row("_qwen_xml", "Qwen3_6", "Qwen 3.6", r"qwen-?3-6"),
    "qwen3_coder": Row(
        *("_qwen_xml", "Qwen3Coder", "Qwen 3 Coder", r"qwen-?3-coder"),
        marks=(*_FUNCTION, "</name>"),
        without=("truncate_history_thinking",),
    ),
    "smollm2": Row(
        *("_qwen", "SmolLM2", "SmolLM 2 Instruct", r"smollm-?2"),
        marks=("named SmolLM", "<|im_start|>"),
        without=("Custom Instructions",),
    ),
    "smollm3": Row(
        *("_smollm3", "SmolLM3", "SmolLM 3", r"smollm-?3"),
        marks=("named SmolLM", "<|im_start|>", "Custom Instructions"),
    ),
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
    return cls(name, **options)


def list_formats() -> list[str]:
    """The names of all chat formats, sorted."""
    return sorted(FORMATS)


def detect_format(model: str | Path) -> str:
    """The name of the chat format that a model uses.

    In a checkpoint folder the chat template decides (``chat_template.jinja``, ``chat_template.json`` or
    ``tokenizer_config.json``); where several formats fit it, or there is no template, the model's name does, as
    ``config.json`` or the folder has it.

    Args:
        model: a checkpoint folder, or a model's name such as ``"Qwen/Qwen3-0.6B"``.

    Raises:
        ValueError: if no format fits.
    """
    folder = Path(model)
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        found = _by_name(str(model))
        if found:
            return found
        raise ValueError(
            f"No chat format is known for the model name {str(model)!r}, and it is no folder. Name one yourself: "
            f"{', '.join(list_formats())}."
        )
    template = "\n".join(own_template(text) for text in find_templates(folder).values())
    names = [name for name in (*_names(folder), folder.resolve().name) if name]
    named = next((found for name in names if (found := _by_name(name))), None)
    fits = _by_template(template)
    if named and (not fits or named in fits or not FORMATS[named].marks):
        return named
    if fits:
        return fits[0]
    looked = "its chat template fits no format" if template else "it has no chat template"
    raise ValueError(
        f"No chat format found for the folder {str(folder)!r}: {looked}, and no model name in it is known "
        f"(looked at: {', '.join(names)}). Name one yourself: {', '.join(list_formats())}."
    )


def _by_name(name: str) -> str | None:
    """The format whose name this is or whose pattern fits it, the earliest match first, then the longest."""
    if name in FORMATS:
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower().rsplit("/", 1)[-1]) + "-"
    matches = [(-m.start(), m.end(), key) for key, row in FORMATS.items() if (m := re.search(row.names, plain))]
    return max(matches)[2] if matches else None


def _by_template(template: str) -> list[str]:
    """The formats whose marks a template bears, those with most marks first."""
    fits = [
        (len(row.marks) + len(row.without), name)
        for name, row in FORMATS.items()
        if row.marks and all(m in template for m in row.marks) and not any(m in template for m in row.without)
    ]
    return [name for _, name in sorted(fits, key=lambda fit: (-fit[0], fit[1]))]


def find_templates(folder: Path, config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The chat templates of a checkpoint folder by name; the one for conversations without more is ``default``."""
    found: dict[str, str] = {}
    for values in (
        _json(folder / "tokenizer_config.json") if config is None else config,
        _json(folder / "chat_template.json"),
    ):
        given = values.get("chat_template")
        if isinstance(given, str):
            found["default"] = given
        for one in given if isinstance(given, list) else ():
            found[str(one["name"])] = str(one["template"])
    for path in (folder / "additional_chat_templates").glob("*.jinja"):
        found[path.stem] = path.read_text(encoding="utf-8")
    if (folder / "chat_template.jinja").is_file():
        found["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return found


def serve_templates(folder: Path, fmt: ChatFormat) -> None:
    """Makes the chat templates of a checkpoint folder those that a model trained in this format is served with."""
    for path in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        values = _json(path)
        given = values.get("chat_template")
        if isinstance(given, str):
            served: Any = fmt.served_template(given)
        else:
            served = [{**one, "template": fmt.served_template(str(one["template"]))} for one in given or ()]
        if given and served != given:
            path.write_text(json.dumps({**values, "chat_template": served}, ensure_ascii=False, indent=2), "utf-8")
    for path in (folder / "chat_template.jinja", *(folder / "additional_chat_templates").glob("*.jinja")):
        if path.is_file():
            path.write_text(fmt.served_template(path.read_text(encoding="utf-8")), encoding="utf-8")


def _names(folder: Path) -> list[str]:
    """What the files of a checkpoint call the model."""
    config, tokenizer = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    return [str(name) for name in (config.get("_name_or_path"), tokenizer.get("name_or_path")) if name]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
