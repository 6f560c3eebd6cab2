"""Chat templates: what published ones use renders as in transformers; what never ends, reaches out
or is not a program is refused in one line."""

import json
import threading

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from pocketvlm.errors import ArtifactError, PocketVLMError, RequestError
from pocketvlm.text.templates import ChatTemplate
from support.hostile_templates import HOSTILE
from support.processes import run_module

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


IMAGE = {"type": "image"}
CONVERSATIONS = [
    [user(IMAGE, text('what is <b>"this"</b> & é?\n two'))],
    [
        {"role": "system", "content": [text(" be brief ")]},
        user(text("a"), IMAGE, IMAGE, text("b")),
        {"role": "assistant", "content": [text(" yes ")]},
        user(text("and?")),
    ],
]
# What published templates use, each in its own way.
USED = [
    "{% for m in messages %}{{ m.role | upper }}{{ m['content'] | tojson }}{% endfor %}",
    "{% for m in messages %}{{ m | tojson(indent=4) }}{{ m.content | tojson(ensure_ascii=True, "
    "sort_keys=True, separators=(',', ': ')) }}{% endfor %}",
    "{{ bos_token ~ messages | length ~ eos_token ~ none ~ 1.5 ~ true }}",
    "{% set n = namespace(last=-1, parts=[]) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set n.last = loop.index0 %}{% set n.parts = n.parts + [m.content] %}{% endif %}{% endfor %}"
    "{{ n.last }}{{ n.parts }}",
    "{% macro part(p, first=false) %}{% if p.type == 'image' %}<image>{% else %}{{ p.text | trim }}"
    "{{ caller() if caller else '' }}{% endif %}{% endmacro %}{% for m in messages %}"
    "{% for p in m.content %}{{ part(p, first=loop.first) }}{% call part(p) %}!{% endcall %}"
    "{% endfor %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.content | selectattr('type', 'equalto', 'text') | "
    "map(attribute='text') | join('|') }}{{ m.content | rejectattr('text') | list | length }}"
    "{% endfor %}",
    "{% for m in messages %}{% for p in m.content if p.type != 'image' and 'text' in p %}"
    "{{ loop.index ~ '/' ~ loop.length ~ loop.last }}"
    "{{ p.text.strip().split('i')[-1].rstrip('?') }}"
    "{% else %}none{% endfor %}{% endfor %}",
    "{% for m in messages %}{% if loop.index0 % 2 == 1 %}{% continue %}{% endif %}"
    "{% if loop.index > 3 %}{% break %}{% endif %}{{ m.get('role', '').title() }}"
    "{% for key, value in m.items() | sort %}{{ key }}{{ value | string | length }}{% endfor %}"
    "{{ m | dictsort }}{% endfor %}",
    "{% generation %}{% set x = 1 %}{{ messages[-1].content[-1].text.replace('a', 'aa') }}"
    "{% endgeneration %}{{ x is defined }}",
    "{% set x %}{{ messages[0].role }}{{ '-' * 3 }}{{ 2 * 3.5 }}{{ 2 ** 10 }}{% endset %}"
    "{{ x | capitalize | indent(2, true) | replace('-', '+') }}{% filter upper %}{{ x }}"
    "{% endfilter %}",
    "{{ range(1, 9, 2) | list }}{{ (messages | first).role }}{{ [3, 1, 2] | sort | max }}"
    "{{ ['a', 'b', 'a'] | unique | list }}{{ '7' | int + 1 }}{{ 7 / 2 | round(1) }}"
    "{{ 2.567 | round(2) }}{{ -3 | abs }}{{ [1, 2] | reverse | list }}{{ dict(a=1) }}",
    "{{ 'abc'.startswith(('a', 'b')) }}{{ 'abc'[1:] }}{{ 'abc' in 'xabcx' }}{{ 1 < 2 < 3 }}"
    "{{ messages is iterable and messages is not string and messages is not mapping }}"
    "{{ messages[0].role is eq('user') }}{{ 'a' is in ['a'] }}{{ nothing is undefined }}"
    "{{ nothing | default('d') }}{{ nothing }}{{ '<b>' | e }}{{ '<b>' | safe }}",
    "{{ (1, 'a', (2,)) }}{{ {'a': messages | length, 2: [none]} }}{{ not false }}{{ 7 // 2 - 1 }}"
    "{{ 'a' if messages else 'b' }}{{ loop is defined }}{{ messages | map('length') | list }}",
    "{% for t in [[1, [2]], [3]] recursive %}{{ loop(t) if t is iterable else t }}{% endfor %}",
    "{% if messages[0].role == 'system' %}{{ messages[0].content[0].text | trim }}\n{% endif %}\n"
    "    {%- for m in messages %}\n    {{ m.role }}\n    {% endfor %}",
    "{% if tools %}{{ tools | nofilter }}{% endif %}{{ add_generation_prompt }}{{ documents }}",
    "{{ ', '.join(messages | map(attribute='role')) }}{{ 'a-b'.split('-') | join }}"
    "{{ ' '.join(['a', 'b']).upper() }}{{ messages[0].keys() | list }}{{ [1, 2].index(2) }}",
    "{{ raise_exception('no ' + messages[0].role) }}",
    "{{ messages[9].content }}",
]


@pytest.mark.parametrize("source", USED)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "four"])
def test_what_published_templates_use_renders_as_in_transformers(source, messages):
    try:
        expected = render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=True, documents=None, **SPECIAL
        )[0][0]
    except TemplateError:
        with pytest.raises(RequestError, match="refuses this conversation"):
            ChatTemplate(source, SPECIAL).render(messages)
        return
    assert ChatTemplate(source, SPECIAL).render(messages) == expected


@pytest.fixture(scope="module")
def outcomes():
    """Of a process with 2 GB of address space, so that a burst of memory is a failure here."""
    done = run_module("support.hostile_templates", timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_templates_that_would_never_end_are_refused(outcomes):
    assert len(outcomes) == len(HOSTILE)
    assert [row for row in outcomes if not row[1].startswith("refused the chat template")] == []
    assert [row for row in outcomes if len(row[1]) > 450 or "\n" in row[1]] == []


def test_a_constant_that_nobody_comes_to_is_refused_before_other_programs_work_it_out():
    with pytest.raises(ArtifactError, match="filter center is not known"):
        ChatTemplate("{% if false %}{{ 'a' | center(9) }}{% endif %}", {})
    assert (
        ChatTemplate("{% if false %}{{ ('a' * 3) | trim / 0 }}{% endif %}x", {}).render([]) == "x"
    )


def test_a_long_conversation_is_rendered():
    """What a template may do grows with the conversation, and is counted anew each time."""
    source = "{{ '-' * 3 }}{% for m in messages %}{{ m.role }}{% endfor %}"
    template = ChatTemplate(source, {})
    for _ in range(2):
        assert template.render([{"role": "x"}] * 10_000) == "---" + "x" * 10_000
    each_other = (
        "{% for m in messages %}{% set n = namespace(x=0) %}{% for o in messages %}"
        "{% if o.role == m.role %}{% set n.x = n.x + 1 %}{% endif %}{% endfor %}"
        "{{ n.x }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "a"}] * 150
    assert ChatTemplate(each_other, {}).render(messages) == "150" * 150


def test_threads_count_apart():
    template = ChatTemplate("{% for m in messages %}{{ m.role * 9 }}{% endfor %}", {})
    messages = [{"role": "ab"}] * 2000
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(template.render(messages))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["ab" * 18000] * 8


def test_a_template_that_is_no_text_is_refused_as_one_line():
    with pytest.raises(PocketVLMError, match="at most 262144"):
        ChatTemplate("a" * 300_000, {})


def test_what_does_not_compile_reads_nothing_of_the_current_folder(tmp_path, monkeypatch):
    """Python quotes a line of the program that it refuses, out of the file that it is said to be
    in, and would wait for a pipe of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "<template>").write_text("secret\n" * 99)
    with pytest.raises(ArtifactError, match=r"duplicate argument 'l_1_a' .*<template>") as refusal:
        ChatTemplate("{% macro f(a, a) %}{% endmacro %}", {})
    assert "secret" not in str(refusal.value.__cause__.text)
