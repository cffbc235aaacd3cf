"""System prompts: variables are data, and a template takes bounded time and memory whatever it says."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.errors import InvalidArgumentError
from retinue_engine.prompt import MAX_TEXT_BYTES, render_prompt
from retinue_kit.template_syntax import MAX_TEMPLATE_CHARACTERS, MAX_TOKENS
from retinue_registry.models.template import template_names

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
BIG = "ab" * 100_000
MEMORY_BYTES = 1024**3
"""More than an honest prompt could ever take, beside what the process has."""


@pytest.fixture
def _little_memory() -> Iterator[None]:
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("only Linux says how much memory a process has, and holds it to that")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(pages.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@given(TEXT | st.sampled_from(["{{ a }}", "{% if %}", "{#"]))
def test_without_variables_a_prompt_stays_as_it_is(text: str) -> None:
    assert render_prompt(text, {}) == text


@given(TEXT | st.sampled_from(["{{ b }}", "{% raw %}", "{{ a.__class__ }}", "<b>&amp;", "\n"]))
def test_a_value_is_data_whatever_it_looks_like(value: str) -> None:
    assert render_prompt("<{{ a }}|{{ a }}>\n", {"a": value}) == f"<{value}|{value}>\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Hi {{ name }}!\n\n", "Hi Ann!\n\n"),
        ("{% if tone == 'short' %}Be brief.{% else %}Explain.{% endif %}", "Be brief."),
        ("{{ place | default('nowhere') }}", "nowhere"),
        ("{% if place is defined %}{{ place }}{% else %}?{% endif %}", "?"),
        ("{{ name | upper }}{{ name[0] }}{{ name.lower() }}{{ name | length + 1 }}", "ANNAann4"),
        ("{% for w in list.split(',') %}{{ loop.index ~ '. ' ~ w }};{% endfor %}", "1. a;2. b;"),
        ("{% for k, v in [('x', 1), ('y', 2)] %}{{ k }}{{ v * 2 }}{% endfor %}", "x2y4"),
        ("{% for w in list.split(',') if w != 'a' %}{{ w }}{{ loop.last }}{% endfor %}", "bTrue"),
        ("{% set both = [name, tone] %}{{ both | map('upper') | join(' ') }}", "ANN SHORT"),
        ("{% set x %}a{{ name }}{% endset %}{% filter upper %}{{ x }}{% endfilter %}", "AANN"),
        ("{{ list | replace(',', ', ') | indent(2, first=true) }}", "  a, b"),
        ("{{ name | tojson }}", '"Ann"'),
        ("{% raw %}{{ name }}{% endraw %}{# no #}", "{{ name }}"),
        ("{% for n in range(3) %}{{ n }}{% endfor %}", "012"),
        (
            "{% set ns = namespace(n=0) %}{% for w in name %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "3",
        ),
    ],
)
def test_templates_say_what_jinja_says(source: str, text: str) -> None:
    variables = {"name": "Ann", "tone": "short", "list": "a,b"}
    assert render_prompt(source, variables) == text
    template_names(source)


def test_a_variable_that_is_not_set_is_named_with_those_that_are() -> None:
    for source in ("{{ nmae }}", "{% if nmae == 'x' %}{% endif %}", "{{ name ~ nmae }}", "{{ [nmae] }}"):
        with pytest.raises(InvalidArgumentError, match="needs the variable 'nmae'") as caught:
            render_prompt(source, {"name": "x", "age": "7"})
        (violation,) = caught.value.violations
        assert violation.field == "run.options.variables"
        assert violation.description.endswith("it has age, name")


def refused(text: str) -> str:
    """What a template is refused for."""
    with pytest.raises(InvalidArgumentError) as caught:
        render_prompt(text, {"name": "Ann", "big": BIG})
    (violation,) = caught.value.violations
    assert violation.field == "agent.system_prompt"
    return violation.description


@pytest.mark.parametrize(
    "source",
    [
        "{{ name.__class__ }}",
        "{{ name['__class__'] }}",
        "{{ name.upper.__self__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.mro() }}",
        "{% for x in [1].__iter__() %}{% endfor %}",
        "{{ (range(1) | map(attribute='__class__') | list)[0].mro() }}",
        "{{ name.format.__globals__ }}",
        "{{ '{0.__class__}'.format(name) }}",
    ],
)
def test_the_insides_of_values_are_out_of_reach(source: str) -> None:
    said = refused(source)
    assert "unsafe" in said or "not allowed" in said


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**12 }}",
        "{{ name * 99999 * 99999 }}",
        "{% if 'a' * 10**12 %}{% endif %}",
        "{{ [1] * 10**12 }}",
        "{{ 9**(9**9) }}",
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ '{x:1000000000000}'.format_map({'x': 1}) }}",
        "{{ name | indent(10**12) }}",
        "{{ ('\n' * 99999) | indent(99999) }}",
        "{{ name.ljust(10**12) }}",
        "{{ ('\t' * 99999).expandtabs(99999) }}",
        "{{ [name] | map('indent', 10**12) | list }}",
        "{{ big | replace('a', big) }}",
        "{{ big.replace('', big) }}",
        "{{ big.join(big) }}",
        "{{ range(99999) | join(big) }}",
        "{{ {'a': {'b': 1}} | tojson(99999) }}",
        "{{ 1.5 | round(10**12) }}",
        "{{ [" + "big," * 900 + "] | join }}",
        "{{ {'a': big" + "".join(f", 'a{n}': big" for n in range(400)) + "}.values() | join }}",
    ],
)
def test_one_operation_makes_no_more_than_it_may(source: str) -> None:
    assert refused(source)


DOUBLING = "{%% set n = namespace(x=%s) %%}{%% for i in range(99) %%}%s{%% endfor %%}{{ n.x }}"


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize(
    "source",
    [
        DOUBLING % ("'a'", "{% set n.x = n.x ~ n.x %}"),
        DOUBLING % ("'a'", "{% set n.x = n.x + n.x %}"),
        DOUBLING % ("'a'", "{% set n.x = [n.x, n.x] | join %}"),
        DOUBLING % ("'a'", "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
        DOUBLING % ("[1]", "{% set n.x = [n.x, n.x] %}"),
        DOUBLING % ("[1]", "{% set n.x = n.x + n.x %}"),
        DOUBLING % ("(1,)", "{% set n.x = (n.x, n.x) %}"),
        DOUBLING % ("{}", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
        DOUBLING % ("{}", "{% set n.x = dict(a=n.x, b=n.x) %}"),
        "{% set a = (1,) %}" + "{% set a = (a, a) %}" * 40 + "{{ {a: 1} }}",
    ],
)
def test_what_doubles_again_and_again_ends_soon(source: str) -> None:
    assert refused(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ big | sort | list | length }}{% endfor %}",
        "{% for a in range(99999) %}{% set x = big[1:] %}{% endfor %}",
        "{% for a in big %}{% for b in big %}{% if a != b %}{% endif %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) if range(99999) | list %}{% endfor %}",
        "{% for a in range(99999) %}{% set x %}" + "x" * 1000 + "{% endset %}{% endfor %}",
        "{% for x in range(10**9) %}{% endfor %}",
    ],
)
def test_loops_end_soon(source: str) -> None:
    said = refused(source)
    assert said == "it does too much work" or "Range too big" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ big }}{{ big }}", f"longer than {MAX_TEXT_BYTES // 1024} KiB"),
        ("{% for x in range(9999) %}" + "é" * 99 + "{% endfor %}", "longer than 256 KiB"),
        ("a\nb {{ name }", "line 2: unexpected '}'"),
        ("{{ name | attr('x') }}", "line 1: No filter named 'attr'"),
        ("{{ name.nothing }}", "has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% macro %} has no place here"),
        ("{% include '/etc/passwd' %}", "{% include %} has no place here"),
        ("{% import name as x %}", "{% import %} has no place here"),
        ("{% from name import x %}", "{% from %} has no place here"),
        ("{% extends name %}", "{% extends %} has no place here"),
        ("{% block x %}{% endblock %}", "{% block %} has no place here"),
        ("{% autoescape 'a' * 10**12 %}{% endautoescape %}", "{% autoescape %} has no place here"),
        ("{% for x in [[1]] recursive %}{{ loop(x) }}{% endfor %}", "must not be recursive"),
        ("{{" + "(" * 1500 + "1" + ")" * 1500 + "}}", "nested too deeply"),
        ("{% if name %}" * 150 + "{% endif %}" * 150, "nested too deeply"),
        ("{{ name }}" * MAX_TOKENS, f"more than {MAX_TOKENS} words and signs"),
        ("{{" * 100_000, f"more than {MAX_TOKENS} words and signs"),
        ("x" * MAX_TEMPLATE_CHARACTERS + "{{ name }}", f"at most {MAX_TEMPLATE_CHARACTERS} characters"),
    ],
)
def test_what_cannot_be_filled_in_says_why(source: str, said: str) -> None:
    assert said in refused(source)


@pytest.mark.parametrize(
    "source",
    [
        *(f"{{% {word} %}}" for word in ("include name", "import name as x", "from name import x")),
        *(f"{{% {word} %}}" for word in ("extends name", "block x %}{% endblock", "call x() %}{% endcall")),
        *(f"{{% {word} %}}" for word in ("macro f() %}{% endmacro", "autoescape true %}{% endautoescape")),
        "{% for x in name recursive %}{% endfor %}",
        *(f"{{{{ name | {name} }}}}" for name in ("attr('x')", "format", "center", "safe", "pprint", "sum")),
    ],
)
def test_what_the_engine_never_takes_the_registry_refuses_when_it_is_stored(source: str) -> None:
    said = refused(source)
    with pytest.raises(ValueError, match="line 1 of the template") as caught:
        template_names(source)
    assert said.removeprefix("line 1: ") in str(caught.value)
