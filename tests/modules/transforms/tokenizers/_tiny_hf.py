"""A tiny Hugging Face model: its chat templates, and a conversation for them."""

from __future__ import annotations

from typing import Any

from torchtune.data import Message, ToolCall
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

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
