"""Chat templates: programs of a stranger's that are run for every prompt."""

import re
from pathlib import Path
from random import Random

from fuzz.base import Target, put
from fuzz.json_changes import TEXTS
from pocketvlm.text.templates import ChatTemplate
from support.hostile_templates import HOSTILE
from support.tiny_artifact import TEMPLATE

_PIECE = re.compile(r"{%.*?%}|{{.*?}}|[^{]+|.", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]+|\d+|\S|\s+")
_CONVERSATION = [
    {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
    {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "what\nis {{ it }}?"}],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    {"role": "user", "content": [{"type": "text", "text": "why?"}]},
]
_EXPRESSIONS = (
    "messages", "messages[0]", "messages[-1]['content']", "message.role", "loop.index0", "loop",
    "bos_token", "range(10)", "range(10**9)", "'a' * 10**7", "2 ** 10**6", "namespace(x=1)",
    "cycler", "self", "super()", "raise_exception('no')", "strftime_now('%Y')",
    "messages | tojson", "messages | length", "messages | map(attribute='role') | join(',')",
    "''.__class__", "messages.__class__.__mro__", "x.y.z", "1 / 0", "none + 1", "[] | first",
    "'%s' % messages", "'{0.__class__}'.format(1)", "lipsum.__globals__", "dict(a=1)",
    "messages | groupby('role')", "(1, 2)[5]", "caller()", "varargs", "'a' | batch(3)",
    "[3, 1] | sort", "'\ud800'", "'a' ~ 1 ~ none", "not not messages", "-messages",
)  # fmt: skip
_STATEMENTS = (
    "{% set x = EXPR %}", "{% set ns.x = EXPR %}", "{{ EXPR }}", "{% for m in EXPR %}",
    "{% endfor %}", "{% if EXPR %}", "{% else %}", "{% elif EXPR %}", "{% endif %}",
    "{%- set ns = namespace(a=EXPR) -%}", "{% macro f(a, b=EXPR) %}", "{% endmacro %}",
    "{{ f(EXPR) }}", "{% call f(EXPR) %}", "{% endcall %}", "{% filter upper %}",
    "{% endfilter %}", "{% raw %}", "{% endraw %}", "{# EXPR #}", "{% generation %}",
    "{% endgeneration %}", "{% break %}", "{% continue %}", "{% set x %}", "{% endset %}",
    "{% for a, b in EXPR recursive %}", "{% include EXPR %}", "{% import EXPR as z %}",
    "{% do EXPR %}", "{% with a = EXPR %}", "{% endwith %}", "{% block b %}", "{% endblock %}",
    "{% autoescape EXPR %}",
)  # fmt: skip
_PAIRS = {
    "{% for": "{% endfor %}", "{% if": "{% endif %}", "{% macro": "{% endmacro %}",
    "{% call": "{% endcall %}", "{% filter": "{% endfilter %}", "{% with": "{% endwith %}",
}  # fmt: skip


_FILTERS = (
    "tojson", "list", "string", "length", "join", "trim", "upper", "sum", "sort", "reverse", "last",
    "int", "replace('a', 'b' * 999)", "indent(9)", "dictsort", "items", "unique", "batch(2)",
    "center(99999)", "selectattr('role')", "default('a')", "e", "wordwrap(1)", "format(1)",
    "attr('__class__')",
)  # fmt: skip


class Fuzz(Target):
    """See the module."""

    threat = "a template that reaches Python, never ends, or fills memory"

    def prepare(self, folder: Path) -> None:
        del folder
        self.sources = [TEMPLATE] * 20 + [each for each in HOSTILE if len(each) < 5000]

    def write(self, random: Random, box: Path) -> None:
        kind = random.random()
        if kind < 0.45:
            source = self._spliced(random)
        elif kind < 0.7:
            source = "".join(_statement(random, 0) for _ in range(random.randrange(1, 12)))
        else:
            words = _WORD.findall(random.choice(self.sources))
            for _ in range(random.choice((1, 1, 2, 4))):
                place = random.randrange(len(words))
                words[place] = random.choice((random.choice(words), "", words[place] * 2,
                random.choice(_EXPRESSIONS),
                                              random.choice(TEXTS)))  # fmt: skip
            source = "".join(words)
        put(box / "chat_template.jinja", source.encode("utf-8", "surrogatepass"))

    def _spliced(self, random: Random) -> str:
        pieces = _PIECE.findall(random.choice(self.sources))
        for _ in range(random.choice((1, 1, 2, 4))):
            place = random.randrange(len(pieces) + 1)
            if random.random() < 0.3:
                del pieces[place : place + 1]
            else:
                pieces.insert(place, _statement(random, 0))
        return "".join(pieces)

    def use(self, box: Path) -> None:
        text = (box / "chat_template.jinja").read_bytes().decode("utf-8", "surrogatepass")
        template = ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"})
        template.render(_CONVERSATION)


def _statement(random: Random, depth: int) -> str:
    """A statement, closed most of the time."""
    text = random.choice(_STATEMENTS)
    while "EXPR" in text:
        text = text.replace("EXPR", _expression(random), 1)
    end = next((end for start, end in _PAIRS.items() if text.startswith(start)), "")
    if not end or random.random() < 0.1:
        return text
    inner = (
        "".join(_statement(random, depth + 1) for _ in range(random.randrange(3)))
        if depth < 4
        else "a"
    )
    return text + inner + end


def _expression(random: Random) -> str:
    one = random.choice(_EXPRESSIONS)
    if random.random() < 0.6:
        return one
    other = random.choice(_EXPRESSIONS)
    return random.choice((
        f"({one} + {other})", f"({one} ~ {other})", f"({one} | {random.choice(_FILTERS)})",
        f"({one} * {random.choice((2, 99, 99999))})",
        f"({one} if {other} else {one})", f"{one}[{other}]",
        f"{one}[1:{random.choice((2, -1, 10**9))}]",
        f"{one}.{random.choice(('format', 'split', 'items', 'append', '__init__', 'x'))}({other})",
        f"[{one}, {other}]", f"{{'a': {one}}}", f"({one} in {other})", f"({one} == {other})",
        f"({one} is {random.choice(('string', 'mapping', 'defined', 'iterable', 'sameas 1'))})",
    ))  # fmt: skip
