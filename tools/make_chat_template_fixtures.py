"""Makes tests/fixtures/chat_templates/snippets.json with the package `jinja2` (3.1.6 was used): run from the repository root.

Small templates, one or a few features each, and what they render to in the environment of transformers' apply_chat_template;
{"error": ...} where they fail. All share one `context`. Nothing here calls our code.
"""

import json
import warnings
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = Path("tests/fixtures/chat_templates/snippets.json")
NOW = datetime(2024, 2, 29, 0, 5, 9)

CONTEXT = {
    "s": "Hello World", "e": "", "n": None, "i": 7, "f": 2.5, "neg": -3, "b": True,
    "l": [3, 1, 2], "ls": ["b", "a", "C"], "d": {"x": 1, "y": [1, {"z": None}], "items": 5},
    "u": "na\u00efve \u2615 \"q\" <&> ' \u00df\u03a3", "ws": " \u00a0 a b \n", "ml": "one\ntwo\r\n\n  four",
    "big": 12345678901234567890, "html": "<!-- x --><p>Hi &amp; <b>you</b></p>",
    "nested": [{"k": "v1", "n": 2, "t": True}, {"k": "V1", "n": 1}, {"k": None, "n": 2, "t": False}],
    "messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}],
}

SNIPPETS = r"""
{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 0 ** 0 }}
{{ big + 1 }} {{ big * big }} {{ big // 7 }} {{ big % 1000 }} {{ -big }} {{ big / 3 }} {{ 2 ** 100 }} {{ 9223372036854775807 + 1 }} {{ big > 1e19 }} {{ big == 12345678901234567890.0 }}
{{ -9223372036854775808 // -1 }} {{ (2 ** 70) // -(2 ** 35) }} {{ (2 ** 70 + 1) % -(2 ** 35) }} {{ 10 ** 20 / 10 ** 18 }} {{ 3 * 1.5 }} {{ (2**64)|string|length }}
{{ 1.0 }} {{ 1e16 }} {{ 1e15 }} {{ 1e-4 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 5e-324 }} {{ 2.0 ** -44 }} {{ 123456789.123456789 }} {{ -0.0 }} {{ 1_000.5 }} {{ 0b101 }} {{ 0o17 }} {{ 0xFF }}
{{ true + true }} {{ -true }} {{ true * 2.5 }} {{ 'ab' * true }} {{ [1] * 2 }} {{ (1, 2) * 2 }} {{ 'x' * -1 }}| {{ 1 == true }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ none == undefined }}
{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 in [1.0] }} {{ 'el' in s }} {{ 'x' in d }} {{ none in [none] }} {{ 2 not in l }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ 'a' < 'B' }} {{ l == [3, 1, 2] }} {{ d == {'x': 1} }}
{{ s and 0 }} {{ e or n or 'last' }} {{ not s }} {{ 1 if e else 2 if n else 3 }} {{ ('x' if false) is undefined }} {{ 'x' if false }}|
{{ s[0] }}{{ s[-1] }}{{ s[99] }}{{ s[1:4] }}{{ s[::-2] }}{{ s[-100:2] }}{{ s[5:2] }}{{ s[true] }}{{ u[5:] }}{{ l[::-1] }}{{ l[1:][0] }}{{ (1,2,3)[-2:] }}{{ range(10)[2:8:3]|list }}{{ range(5)[-1] }}
{{ l[:0] }}{{ l[5:] }}{{ l[none:2] }}{{ s[10**30:] }}{{ s[-10**30:3] }}{{ l[2:0:-1] }}{{ l[0:-1] }}
{{ d.x }} {{ d['x'] }} {{ d.items is callable }} {{ d['items'] }} {{ d.y[1]['z'] }} {{ d.nope }}| {{ d.get('x') }} {{ d.get('q') }} {{ d.get('q', 4) }} {{ nested.0.k }} {{ 'ab'.1 }}
{{ d.keys() }} {{ d.values()|list }} {{ d.items() }} {{ d.keys()|list|sort }} {{ 'x' in d.keys() }} {{ d.keys()|length }} {{ d|length }} {{ d|list }} {{ dict(d, x=2).x }} {{ d.copy() == d }}
{{ 'a' 'b' }} {{ "\x41\u00e9\U0001F600\101\t|" }} {{ 'it\'s' }} {{ "\q" }} {{ ['\n', "it's", 'a"b\'c', '\x00\x7f\xa0\u200b\U0001F600'] }}
{{ ws.strip() }}|{{ ws.lstrip() }}|{{ ws.rstrip() }}|{{ ws|trim }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.rstrip('ab') }}|{{ '\u2003a\u2003'.strip() }}
{{ s.split() }} {{ s.split('o') }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'aaa'.split('aa') }} {{ 'aaa'.rsplit('aa') }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a-b'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'a'.rpartition('-') }}
{{ ml.splitlines() }} {{ ml.splitlines(true) }} {{ 'a\x0bb\x85c\u2028d'.splitlines() }} {{ ''.splitlines() }} {{ 'a\n'.splitlines() }}
{{ s.find('o') }} {{ s.find('o', 5) }} {{ s.rfind('o') }} {{ s.find('') }} {{ s.rfind('') }} {{ s.find('zz') }} {{ s.index('W') }} {{ u.find('q') }} {{ s.count('l') }} {{ s.count('') }} {{ s.count('l', 4) }} {{ s.startswith('World', 6) }} {{ s.endswith(('x', 'd')) }} {{ 'aXbX'.replace('X', 'YY', 1) }} {{ 'ab'.replace('', '-') }}
{{ u.upper() }} {{ u.lower() }} {{ u.title() }} {{ u.capitalize() }} {{ u.swapcase() }} {{ u.casefold() }} {{ '\u039f\u0394\u039f\u03a3 \u03a3'.lower() }} {{ '\u01c6\ufb01'.title() }} {{ "they're bill's".title() }} {{ "they're (bill's)-x"|title }}
{{ 'a1'.isalnum() }} {{ '\u00b2'.isdigit() }} {{ '\u00b2'.isdecimal() }} {{ '\u2167'.isnumeric() }} {{ 'Ab'.istitle() }} {{ 'AB1'.isupper() }} {{ ''.islower() }} {{ ' \t'.isspace() }} {{ '_a1'.isidentifier() }} {{ 'a\n'.isprintable() }} {{ '\u0661\u0662'|int }} {{ ' 42 '|int }} {{ '4_2'|int }}
{{ 'x'.center(6) }}|{{ 'xx'.center(5, '*') }}|{{ 'x'.ljust(3, '.') }}|{{ 'x'.rjust(3) }}|{{ '-7'.zfill(5) }}|{{ 'a\tb'.expandtabs(4) }}|{{ 'HelloWorld'.removeprefix('Hello').removesuffix('ld') }}|{{ ', '.join(ls) }}|{{ ''.join('abc') }}
{{ '%s %r %d %5.1f|%-5s|%05d|%+d|%x|%X|%#o|%e|%g|%c|%%' % ('a', 'a', 3.9, 2.25, 'ab', -42, 5, 255, 255, 8, 12345.678, 0.0001, 'z') }}
{{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }} {{ '%*d' % (5, 3) }} {{ '%.3s|' % 'abcdef' }} {{ '%s' % none }} {{ '%s' % [1] }} {{ 'x' % [] }} {{ '%s' % undefined_x }}|
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format(1, 2) }} {{ '{a!r:>6}|{b[0]}|{c.x}'.format(a='q', b=l, c=d) }} {{ '{:^7}|{:*<4}|{:06.2f}|{:,}|{:x}|{:#b}|{:e}|{:.1%}'.format('m', 'ab', 3.14159, 1234567, 255, 5, 1234.5, 0.256) }} {{ '{{}}' .format() }} {{ '{:{w}}|'.format(1, w=4) }} {{ '{:010,}'.format(1234) }} {{ '{:.3}'.format(2.0) }} {{ '{:g}'.format(1e10) }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ ls|sort }} {{ ls|sort(case_sensitive=true) }} {{ nested|sort(attribute='n')|map(attribute='k')|list }} {{ nested|sort(attribute='n,k', case_sensitive=true)|length if false else '-' }} {{ nested|map(attribute='n')|sort|join }}
{{ l|first }} {{ l|last }} {{ []|first }}| {{ []|last is defined }} {{ s|first }} {{ s|last }} {{ d|first }} {{ d|last }} {{ l|reverse|list }} {{ s|reverse }} {{ l|min }} {{ ls|max }} {{ []|min }}| {{ l|sum }} {{ l|sum(start=1.5) }} {{ [[1], [2]]|sum(start=[]) }} {{ nested|sum(attribute='n') }}
{{ l|map('string')|join('-') }} {{ ls|map('upper')|list }} {{ nested|map(attribute='zz', default=0)|list }} {{ nested|map(attribute='k')|list }} {{ l|select('odd')|list }} {{ l|reject('gt', 1)|list }} {{ nested|selectattr('t')|list|length }} {{ nested|rejectattr('t', 'undefined')|map(attribute='n')|list }} {{ nested|selectattr('n', 'in', [1])|map(attribute='k')|first }} {{ none|map('upper')|list }} {{ [0, '', none, 'a']|select|list }}
{{ l|map('upper') is iterable }} {{ 'y' if []|map('upper') else 'n' }} {% set g = l|map('string') %}{{ g|list }}{{ g|list }} {{ (l|select) is sequence }} {{ 3 in l|map('int') }}
{{ l|batch(2)|list }} {{ l|batch(2, 'x')|list }} {{ range(7)|slice(3)|list }} {{ range(7)|slice(3, 0)|list }} {{ nested|groupby('n')|map('first')|list }} {% for g in nested|groupby('n') %}{{ g.grouper }}:{{ g.list|length }};{% endfor %}{{ [1, 1.0, true, 'a', 'A']|unique|list }} {{ ls|unique(case_sensitive=true)|list }}
{{ {'b': 1, 'A': 2, 'c': 0}|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ {'b': 1, 'A': 2}|dictsort(by='value', reverse=true) }} {{ {'b': 1}|items|list }} {{ x_undefined|items|list }}
{{ 3.7|int }} {{ '3.7'|int }} {{ 'x'|int }} {{ 'x'|int(-1) }} {{ '0x1f'|int(base=16) }} {{ '12'|int(base=3) }} {{ none|int }} {{ true|int }} {{ 1e20|int }} {{ '1e3'|float }} {{ 'nan'|float }} {{ ' inf '|float }} {{ 'x'|float }} {{ 7|float }} {{ -5|abs }} {{ -2.5|abs }} {{ true|abs }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 7|round }} {{ 1234|round(-2) }} {{ 1234.5|round(-2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.19|round(1, 'floor') }} {{ -2.5|round }} {{ 25|round(-1) }} {{ 1e20|round(2) }}
{{ d|tojson }} {{ u|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ [1.0, 1e20, big, none, true, 'a/b\x7f\x01']|tojson }} {{ {'b': 1, 'a': {}}|tojson(sort_keys=true) }} {{ l|tojson(separators=(',', ':')) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ (1, 2)|tojson }}
{{ d|tojson(indent=2) }}{{ [[], {}, [1]]|tojson(indent=1) }}{{ [1]|tojson(indent='--') }}{{ [1, [2]]|tojson(indent=0) }}
{{ u|e }} {{ '<b>'|safe }} {{ '<b>'|safe|e }} {{ '<b>'|e|e }} {{ '<b>'|e|forceescape }} {{ '<b>'|safe + '<i>' }} {{ '<i>' + '<b>'|safe }} {{ ('<%s>'|safe) % '&' }} {{ ['<'|safe, '<'] }} {{ ('<'|safe) is escaped }} {{ ('a'|safe).upper() is escaped }} {{ ('<b>'|safe) ~ '<i>' }}
{{ html|striptags }} {{ 'a b/c?d=\u00e9'|urlencode }} {{ {'a b': 1, 'c': '/'}|urlencode }} {{ {'class': 'x', 'id': n, 'q': '"<'}|xmlattr }} {{ 'one two-three_4'|wordcount }} {{ 1000|filesizeformat }} {{ 1|filesizeformat }} {{ 999|filesizeformat }} {{ 1536|filesizeformat(true) }} {{ (10**25)|filesizeformat }}
{{ 'a b c d e f g h'|truncate(9) }} {{ 'abcdefghij'|truncate(5, true) }} {{ 'abcdefghijklm'|truncate(5, true) }} {{ 'abcdefghijklm'|truncate(6, false, '..', 0) }} {{ ml|indent }}| {{ ml|indent(2, true) }}| {{ ml|indent('> ', blank=true) }}| {{ 'a long line of words-with-hyphens'|wordwrap(10) }}| {{ 'abcdefghij'|wordwrap(4, false) }}
{{ x_undefined }}| {{ x_undefined|default('D') }} {{ e|default('D') }} {{ e|d('D', true) }} {{ n|default('D', boolean=true) }} {{ x_undefined|length }} {{ x_undefined|list }} {{ x_undefined ~ 'a' }} {{ x_undefined is iterable }} {{ x_undefined|join }}| {{ x_undefined == y_undefined }} {{ 'a' in x_undefined }} {{ [x_undefined] }} {{ not x_undefined }}
{{ s is string }} {{ b is integer }} {{ b is number }} {{ f is float }} {{ d is mapping }} {{ d is sequence }} {{ (1,) is sequence }} {{ s is iterable }} {{ range(3) is sequence }} {{ n is none }} {{ b is true }} {{ 1 is true }} {{ 1 is sameas 1 }} {{ i is odd }} {{ 4 is divisibleby 2 }} {{ 'a' is lower }} {{ 'upper' is filter }} {{ 'zz' is filter }} {{ 'odd' is test }} {{ range is callable }} {{ i is not none }} {{ 3 is in l }} {{ 3 is gt 2 }} {{ 1.0 is eq 1 }}
{{ range(3) }} {{ range(1, 10, 4)|list }} {{ range(3, 0, -1)|list }} {{ range(0)|list }} {{ 4 in range(0, 10, 2) }} {{ range(5)|sum }} {{ range(3) == range(0, 3) }} {{ range(10)|length }} {{ range(3)|reverse|list }}
{{ namespace(a=1) }} {{ dict(a=1) }} {{ dict([('a', 1)]) }} {{ (1, 'a') }} {{ (1,) }} {{ () }} {{ [] }} {{ {} }} {{ {1: 'a', 'b': none} }} {{ {1: 'a', 1.0: 'b', true: 'c'} }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }} {% set j = joiner('+') %}{{ j() }}1{{ j() }}2{{ j() }}3
{{ [1, 'a', 2.0, none, [x_undefined]]|pprint }} {{ {'b': 1, 'a': 'x' * 30, 'c': ['y' * 30, 'z' * 30]}|pprint }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %a %A %b %B %j %p %I %y %e|%-d|%-m|%U %W %V %G %u %w %C %D %F %T %R %c %x %X %% %f %k %l %h %n%t%Z|%z|%q') }}
{{ d|attr('x') }}| {{ s|attr('upper')() }} {{ d.__class__ }}| {{ s._x }}| {{ messages[0]|attr('keys')()|list }}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('o', 'e') }}{{ loop.changed(x > 1) }}{{ loop.depth }}; {% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}{% for a, c in [[1, 2], [3, 4]] if a %}{{ loop.nextitem }}{% endfor %}{{ ('ab'|safe)|list }}{% for x in l|map('string') %}{{ loop.last }}{{ loop.length }}{% endfor %}
{% for x in range(9) %}{% if x == 2 %}{% continue %}{% elif x == 5 %}{% break %}{% endif %}{{ x }}{% else %}never{% endfor %}{% for x in [1] %}{% continue %}{% else %}E{% endfor %}
{% for x in [[1, [2, [3]]], [4]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}
{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }} {% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}{% for (a, (c, e)) in [[1, [2, 3]]] %}{{ a }}{{ c }}{{ e }}{% endfor %}
{% set x = 1 %}{% for y in l %}{{ x }}{% set x = y %}{{ x }} {% endfor %}{{ x }} {% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(c=0, l=[]) %}{% for y in l %}{% set ns.c = ns.c + y %}{% set ns.l = ns.l + [y] %}{% endfor %}{{ ns.c }}{{ ns.l }} {% set ns.a, z = 1, 2 %}{{ ns.a }}{{ z }} {{ ns.nope }}|
{% macro m(a, b='B', c=b) %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m() }}{{ m(1) }}{{ m(1, 2, 3, 4, z=5) }}{{ m(c=1, a=2) }}{{ m(*[1, 2], **{'c': 3}) }}{{ m.name }}{{ m.arguments }}
{% macro m(x) %}<{{ caller(x, 2) if caller else '-' }}>{% endmacro %}{{ m(1) }}{% call(p, q=3) m(1) %}{{ p }}{{ q }}{% endcall %}{% call(a, c) m(0) %}{{ c }}{% endcall %}
{% macro m() %}{{ v }}{% endmacro %}{{ m() }}|{% set v = 1 %}{{ m() }}{% for v in [2] %}{{ m() }}{% endfor %}{% macro outer() %}{% set v = 3 %}{{ m() }}{{ v }}{% endmacro %}{{ outer() }}
{% macro f(n) %}{{ n }}{{ f(n - 1) if n > 0 }}{% endmacro %}{{ f(5) }} {% macro g() %}{{ i }}{% endmacro %}{% set i = 8 %}{{ g() }}{{ i }}
{{ i }}{% if false %}{% set i = 1 %}{% endif %}{{ i }} {% macro h() %}{{ q }}{% endmacro %}{{ h() }}|{% set q = 1 %}{{ h() }}{% with i = 5, w = i %}{{ i }}{{ w }}{% endwith %}{{ i }}
{% set t %} a {{ s }} {% endset %}[{{ t }}] {% set t | upper | trim %} a {% endset %}[{{ t }}] {% filter upper | replace('A', 'x') %}a{{ s }}{% endfilter %} {% generation %}g{{ s }}{% set leak = 1 %}{% endgeneration %}{{ leak }}|
{% block one %}{{ s }}{% set z = 1 %}{% endblock %}{{ z }}| {% for x in l %}{% block two scoped %}{{ x }}{% endblock %}{% endfor %}{% set top = 4 %}{% block three %}{{ top }}{% endblock %} {% autoescape false %}<{% endautoescape %} {% print 1, 2 %} {% raw %}{{ x }}{% endraw %} {# c #}
""" .strip().split("\n") + [
    "  {% if b %}\n  x\n  {% endif %}\n  {{ i }}\ny\n", "a {%- if b -%} b {%- endif -%} c", "a\n  {%+ if b %}  b\n  {%- endif +%}\n c\n\n",
    "{# one #}\n{#- two -#}\n  {# three +#}\nx  {#- four #}\n", "{% raw -%}  {{ a }}\n{%- endraw %}\n x", "{% for x in l -%}\n  {{ x }},\n{%- endfor %}\n",
    "\n\n{{ s }}\n", "{{ s }}\n\n", "\r\na\r\n{% if b %}\r\nb\rc\r\n{% endif %}\r\n", "{{- ' a ' -}}  \n b", "   {{ i }}\n   {% set z = 1 %}\n   z", "a{% if b %}\n\nb{% endif %}",
    "{%- for m in messages %}\n    {{- '<|' + m['role'] + '|>\\n' + m['content'] | trim + '<|end|>' }}\n{%- endfor %}\n{%- if true %}\n    {{- '<|assistant|>\\n' }}\n{%- endif %}\n",
    "{% set x = {'a': {'b': [1, 2]}} %}{{ x.a.b[1] }}}}", "{{ {'a': {}} }}", "{{ '}}' }}{{ \"%}\" }}", "{{ 1 }}{", "{ {", "{{ 'a' if b\n  else 'c' }}", "{%if b%}x{%endif%}", "{{i}}{{-i-}}{{i}}",
    # What fails.
    "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ [] + () }}", "{{ x.y }}", "{{ x.y.z }}", "{{ none.x.y }}", "{{ 1 / 0 }}", "{{ 1 % 0.0 }}", "{{ 1 < 'a' }}", "{{ x < 1 }}", "{{ none > 1 }}", "{{ -s }}", "{{ s() }}",
    "{{ nofunc() }}", "{{ 5|length }}", "{{ l|join(1, 2, 3) }}", "{{ s|upper(1) }}", "{{ s.nope() }}", "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ d.pop('x') }}", "{{ [[]]|unique|list }}", "{{ {[]: 1} }}",
    "{{ range(100001) }}", "{{ range(1.5) }}", "{{ l[::0] }}", "{{ d[1:] }}", "{{ l['a':] }}", "{% for a, b in l %}{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% set a, b = [1] %}", "{% set s.x = 1 %}",
    "{{ 5 in 5 }}", "{{ 5 in 'a' }}", "{{ '%d' % 'a' }}", "{{ '%s' % (1, 2) }}", "{{ '{}'.format() }}", "{{ '{:d}'.format('a') }}", "{{ 'a'.split('') }}", "{{ s.index('q') }}", "{{ raise_exception('no ' ~ i) }}",
    "{{ x_undefined + 1 }}", "{{ x_undefined() }}", "{{ x_undefined|int }}", "{{ l|map('nofilter')|list }}", "{{ l|select('notest')|list }}", "{{ l|map|list }}", "{{ range|tojson }}", "{{ {(1, 2): 3}|tojson }}", "{{ x_undefined|tojson }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "{% for x in l %}{{ loop(x) }}{% endfor %}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{{ namespace(_a=1) }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}", "{% filter length %}a{% endfilter %}", "{{ s|truncate(1) }}", "{{ s|round }}", "{{ 1.5|round(1, 'up') }}", "{{ (l|map('string'))|length }}", "{{ (l|map('string'))[0] is defined }}{{ (l|select)|last }}",
    # No templates.
    "{{ }}", "{{ 1 2 }}", "{{ (1 }}", "{{ 1) }}", "{{ [1) }}", "{{ 'a }}", "{{ a.b. }}", "{{ a | }}", "{{ a is }}", "{{ a is b is c }}", "{% if %}{% endif %}", "{% if b %}", "{% endif %}", "{% for %}{% endfor %}", "{% for x l %}{% endfor %}", "{% nosuch %}", "{% if b %}{% endfor %}",
    "{{ s|nofilter }}", "{{ s is notest }}", "{% if false %}{{ s|nofilter }}{% endif %}ok", "{% if false %}{% for x in l %}{{ s|nofilter }}{% endfor %}{% endif %}", "{{ 1 if true else s|nofilter }}", "{% break %}", "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% set true = 1 %}", "{% set 1 = 2 %}", "{% set a.b.c = 2 %}", "{% for loop in l %}{% endfor %}", "{% macro m(a=1, b) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{{ dict(a=1, a=2) }}", "{# open", "{% raw %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{{ a b }}", "{{ $ }}", "{{ 1 = 2 }}", "{% call s %}{% endcall %}", "{{ \"\\x4\" }}",
]


def environment():
    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    class Dict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attributes = dict(*args, **kwargs)
            for name in attributes:
                Namespace.check(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name, value):
            Namespace.check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def check(name):
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(name)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, strftime_now=NOW.strftime, dict=Dict(), namespace=Namespace)
    return env


def main():
    warnings.simplefilter("ignore")
    env = environment()
    snippets = []
    for template in SNIPPETS:
        try:
            result = {"rendered": env.from_string(template).render(**CONTEXT)}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        assert " at 0x" not in str(result), result
        snippets.append({"template": template, **result})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"now": NOW.isoformat(), "context": CONTEXT, "snippets": snippets}, indent=0) + "\n")
    print(len(snippets), "snippets,", sum("error" in s for s in snippets), "of them fail")


if __name__ == "__main__":
    main()
