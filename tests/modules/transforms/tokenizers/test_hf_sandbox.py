"""Chat templates of others: what they may not do, and what ends one that would never end."""

from __future__ import annotations

import json
import time
from typing import Any

import jinja2
import pytest

from torchtune.modules.transforms.tokenizers import _hf_sandbox
from torchtune.modules.transforms.tokenizers._hf_sandbox import TemplateLimitError
from torchtune.modules.transforms.tokenizers._hf_template import Template

ROWS = [{"role": "user", "content": "hi <b>"}, {"role": "assistant", "content": "so"}]


def render(source: str, **variables: Any) -> str:
    return Template(source, variables)(ROWS, None, False)


NESTED = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
ENDLESS = {
    "nested loops": NESTED,
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a macro that calls itself for ever": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for i in range(9) recursive %}{% if loop.depth < 30 %}{{ loop(range(9)) }}{% endif %}{% endfor %}",
    "a doubled text": "{% set ns = namespace(x='aaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a doubled sum": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "a text times a number": "{{ 'a' * 10**10 }}",
    "a number times a list": "{% set x = 10**10 * [1] %}",
    "a power": "{{ 10**(10**10) }}",
    "squares": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a wide text": "{{ 'a' | center(10**10) }}",
    "a wide text, as a method": "{{ 'a'.ljust(10**10) }}",
    "a wide format": "{{ '%99999999999d' | format(1) }}",
    "a wide format, as a method": "{{ '{:99999999999}'.format(1) }}",
    "a width as an argument": "{{ '{:{}}'.format(1, 10**10) }}",
    "a wide format, as an operation": "{{ '%99999999999d' % 1 }}",
    "zeros": "{{ '1'.zfill(10**10) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "a replaced text": "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
    "a replaced text, as a filter": "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}",
    "joined by a long text": "{{ range(99999) | join('a' * 10000) }}",
    "indented far": "{{ ('\n' * 99999) | indent(99999) }}",
    "many slices": "{{ [1] | slice(10**9) | list }}",
    "joined as a method": "{{ ('a' * 90000).join(range(99999) | map('string')) }}",
    "a list of itself, twice": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "an object of itself, twice": "{% set ns = namespace(x={}) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}",
    "written in a macro": "{% macro f() %}{% for i in range(99999) %}{{ 'a' * 1000000 }}{% endfor %}{% endmacro %}{{ f() | length }}",
    "a long literal in a loop": "{% set x %}{% for i in range(99999) %}" + "a" * 90000 + "{% endfor %}{% endset %}",
    "a source too long": "{# " + "a" * 1_000_001 + " #}",
}  # fmt: skip


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_would_take_all_time_or_memory_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in {"MAX_STEPS": 200_000, "MAX_SIZE": 500_000, "MAX_OUTPUT": 2_000_000}.items():  # quicker
        monkeypatch.setattr(_hf_sandbox, name, limit)
    with pytest.raises(TemplateLimitError, match="chat template was stopped: .*the limit is"):
        render(source)


def test_a_template_that_is_slow_at_each_step_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**9))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    with pytest.raises(TemplateLimitError, match="it took too long, and the limit is 60 s"):
        render("{% for i in range(99999) %}{{ 'b' in 'a' }}{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ open('/etc/hostname') }}",
    ],
)
def test_a_template_gets_at_no_object_file_or_module(source: str) -> None:
    try:
        text = render(source)
    except (ValueError, TypeError):
        return
    assert text == ""


def test_what_templates_write_is_as_without_limits() -> None:
    source = (
        "{%- for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ m.role ~ ': ' ~ m['content'] }}"
        "{% if not loop.first %}{{ loop.previtem.role | upper }}{% endif %}{{ '-' * 3 + '%s' % 5 }}\n{% else %}none{% endfor %}"
        "{% for k, v in messages[0].items() %}{{ k }}={{ v | tojson }};{% endfor %}{% for x in nothing %}x{% else %}no{% endfor %}"
        "{{ messages | map(attribute='role') | join(', ') }}{% set n = namespace(a=1) %}{% set n.a = n.a * 2 ** 3 %}{{ n.a }}"
        "{% for r in [[1, [2]], (3, 4)] recursive %}{{ r[0] }}{{ r is iterable }}{% endfor %}{% set a, b = (5, [6, {'c': 7}]) %}{{ b }}"
    )
    reference = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    reference.filters["tojson"] = json.dumps
    assert render(source) == reference.from_string(source).render(messages=ROWS)


def test_a_long_conversation_is_far_from_the_limits() -> None:
    rows = [{"role": "user", "content": "word " * 2000}, {"role": "assistant", "content": "answer " * 2000}] * 500
    template = Template("{% for m in messages %}{{ m.role + m.content.strip() | replace('a', 'b') }}{% endfor %}", {})
    assert len(template(rows, None, False)) > 10_000_000
