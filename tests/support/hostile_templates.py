"""Chat templates that never end or take all memory, where nobody stops them; run as a program it
says what becomes of each."""

import json
import resource
import sys
import time

from pocketvlm import PocketVLMError
from pocketvlm.text.templates import ChatTemplate

BIG = "{% set n = namespace(x='ab', l=[1]) %}"
FORTY = "{% for i in range(40) %}"
MANY = "{% for i in range(99999) %}"
HOSTILE = [
    # Operators.
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * [1] }}",
    "{{ ([0] * 100000) * 100000 }}",
    "{{ 10**(10**8) }}",
    "{{ 2 ** 4000 ** 2 }}",
    BIG + FORTY + "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    BIG + FORTY + "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}",
    BIG + FORTY + "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}{{ n.x | length }}",
    BIG + FORTY + "{% set n.l = n.l + n.l %}{% endfor %}{{ n.l | length }}",
    BIG + FORTY + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    BIG + FORTY + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | tojson }}",
    BIG + FORTY + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | string | length }}",
    BIG + FORTY + "{% set n.l = (n.l, n.l) %}{% endfor %}{{ {n.l: 1} | length }}",
    BIG + FORTY + "{% set n.l = {'a': n.l, 'b': n.l} %}{% endfor %}{{ n.l }}",
    BIG + FORTY + "{% set n.l = dict(a=n.l, b=n.l) %}{% endfor %}{{ n.l }}",
    BIG
    + "{% set n.k = [2] %}"
    + FORTY
    + "{% set n.l = [n.l, n.l] %}{% set n.k = [n.k, n.k] %}{% endfor %}{{ n.l == n.k }}",
    "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
    "{% set n = namespace(a=1) %}" + FORTY + "{% set n = namespace(a=[n, n]) %}{% endfor %}{{ n }}",
    "{% set n = namespace(m=namespace()) %}"
    + FORTY
    + "{% set k = namespace(a=n.m, b=n.m) %}{% set n.m = k %}{% endfor %}{{ n.m }}{{ [n.m] }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    # Methods.
    "{{ 'a'.center(10**18) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ '1'.zfill(10**9) }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{a:>{b}}'.format(a=1, b=999999999) }}",
    "{{ '{a}'.format_map({'a': 1}) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) | length }}",
    "{{ ('a' * 100000).replace('', 'b' * 100000) | length }}",
    "{{ ('b' * 100000).join('a' * 100000) | length }}",
    BIG + FORTY + "{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}{{ n.x | length }}",
    "{{ (5).to_bytes(10**9, 'big') }}",
    "{{ 'a'.encode().zfill(10**9) }}",
    MANY + "{% set x = ('ab' * 100000).split('b') %}{% endfor %}",
    MANY + "{% set x = ('ab' * 100000)[::-1] %}{% endfor %}",
    MANY + "{% set x = 'c' in ('ab' * 100000) %}{% endfor %}",
    MANY + "{% set x = ('ab' * 100000).upper() %}{% endfor %}",
    MANY + "{% set x = ('ab' * 100000) is upper %}{% endfor %}",
    "{% set a = ('ab' * 1000000) %}" + MANY + "{% set x = a.count('abc') %}{% endfor %}",
    "{% set a = ('ab' * 1000000) %}" + MANY + "{{ a | length }}{% set x = a | trim %}{% endfor %}",
    "{% set a = [1] * 50000 %}{% set b = [1] * 50000 %}" + MANY + "{{ a == b }}{% endfor %}",
    "{% set a = [1] * 50000 %}" + MANY + "{{ 2 in a }}{{ a.index(1) }}{% endfor %}",
    "{% set a = [1] * 50000 %}" + MANY + "{{ a is eq([1] * 50000) }}{% endfor %}",
    "{% set a = (1,) * 50000 %}" + MANY + "{{ {1: 2}[a] }}{% endfor %}",
    # Filters.
    "{{ 'a' | center(10**9) }}",
    "{{ 'a\n' * 10000 | int }}{{ ('a\n' * 100000) | indent(10**6) | length }}",
    "{{ ('a\n' * 100000) | indent('b' * 100000) | length }}",
    "{{ [1, [2]] | tojson(indent=10**9) }}",
    "{{ ([1] * 90000) | tojson(separators=('a' * 90000, 'b')) | length }}",
    "{{ 'a b' | wordwrap(1, wrapstring='c' * 10**8) }}",
    "{{ lipsum(10**6) }}",
    "{{ 1 | round(10**9, 'floor') }}",
    "{{ 1 | round(-10**9) }}",
    "{{ [1] | batch(10**9, 1) | list | length }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ ('a' * 100000) | replace('a', 'b' * 100000) | length }}",
    "{{ ('a' * 100000) | list | join('b' * 100000) | length }}",
    "{{ range(99999) | join('b' * 100000) | length }}",
    "{% for i in range(99999) | map('string') | map('list') %}{{ i * 9999 }}{% endfor %}",
    "{{ [[1]] * 30000 | sum(start=[]) }}",
    BIG + MANY + "{{ (range(99999) | sort)[0] }}{% endfor %}",
    BIG + MANY + "{{ range(99999) | select('odd') | list | length }}{% endfor %}",
    BIG + MANY + "{{ range(99999) | reject('number') | first }}{% endfor %}",
    BIG + MANY + "{{ range(99999) | unique | first }}{{ range(99999) | max }}{% endfor %}",
    "{{ 'a' | xmlattr }}{{ ('a' * 90000) | urlize }}{{ 'a' | pprint }}",
    # Loops and calls.
    MANY + MANY + "{% endfor %}{% endfor %}",
    MANY + "{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    MANY + "{{ loop.cycle('a' * 90000, 'b') }}{{ loop.changed([1] * 90000) }}{% endfor %}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ f(varargs, varargs) }}{% endmacro %}{{ f(1) }}",
    "{% macro f() %}" + "a" * 9000 + "{% endmacro %}" + MANY + "{% set x = f() %}{% endfor %}",
    "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f() %}" * 18
    + "a" * 99
    + "{% endcall %}" * 18,
    MANY + "{% set x %}" + "a" * 9000 + "{% endset %}{% endfor %}",
    MANY + "{{ 1 }}" * 2000 + "{% endfor %}",
    MANY + "{% if false %}" + "{{ 1 }}" * 2000 + "{% endif %}{% endfor %}",
    MANY + "{{ 'a' * 999999 }}{% endfor %}",
    MANY + "{{ strftime_now('%c' * 90000) }}{% endfor %}",
    "{{ cycler('a' * 99999) }}{{ joiner('a') }}",
    "{{ raise_exception('a' * 10**9) }}",
    # What reaches other places.
    "{% include 'a' %}",
    "{% import 'a' as b %}",
    "{% extends 'a' %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% autoescape true %}{{ 'a' }}{% endautoescape %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ namespace(__init__=1) }}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    # What the compiler says of a program.
    "{% for %}",
    "{% macro f(a, a) %}{% endmacro %}",
    "{{ f(a=1, a=2) }}",
    "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "1+" * 20000 + "1 }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "{{ " + "9" * 5000 + " }}",
    "{{ 1 / 0 }}",
    "{{ nothing.at_all }}",
    "{{ 10.0 ** 1000 }}",
    "{% break %}",
    "{% generation %}{% break %}{% endgeneration %}",
    "{{ 'a' | nofilter }}",
    "{{ 'a' is notest }}",
    "{{ [1, 'a'] | sort }}",
    "{{ {}['a'].b }}",
    "{{ 'a' + 1 }}",
    "{{ dict([1]) }}",
    "{{ range(10**9) }}",
    "{{ [] | first.x }}",
    "{{ messages[0].content[99].text }}",
    "{{ ('a' * 3) | tojson(indent='x' * 99) }}",
    "{{ x.y }}" * 30000,
    "a" * 300000,
    # Constants in a branch that nobody takes: other programs work them out all the same.
    "{% if false %}{{ 'a' * 10**9 }}{% endif %}",
    "{% if false %}{{ ('a' * 90000) | replace('a', 'b' * 90000) }}{% endif %}",
    "{% if false %}{{ 'a' | center(10**9) }}{% endif %}",
    "{% if false %}{{ 'a' | indent(10**9) }}{% endif %}",
    "{% if false %}{{ '%999999999d' % 1 }}{% endif %}",
    "{% if false %}{{ [1] | tojson(indent=10**9) }}{% endif %}",
]


def main() -> None:
    """What becomes of each, as JSON lines."""
    limit = 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}]}]
    for source in HOSTILE if len(sys.argv) == 1 else json.loads(sys.stdin.read()):
        started = time.perf_counter()
        try:
            outcome = f"rendered {len(ChatTemplate(source, {}).render(messages))}"
        except PocketVLMError as error:
            outcome = f"refused {error}"
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            outcome = f"raised {type(error).__name__}"
        seconds = time.perf_counter() - started
        sys.stdout.write(json.dumps([source[:150], outcome, round(seconds, 2)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
