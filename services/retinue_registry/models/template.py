"""The rules of a Jinja2 template. It is compiled here and never rendered: the engine does that."""

from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

from jinja2 import TemplateSyntaxError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

MAX_TEMPLATE_CHARACTERS = 256 * 1024
MAX_TOKENS = 4000
"""Of statements and expressions, spaces included: compiling takes some 50 µs for each."""

# As in the engine; a test there holds the two together.
_OF_TEXT = ("capitalize", "indent", "lower", "replace", "string", "title", "trim", "truncate", "upper")
_OF_LISTS = ("first", "join", "last", "list", "map", "reject", "reverse", "select", "sort", "unique")
_OF_NUMBERS = ("abs", "float", "int", "max", "min", "round")
_OF_ALL = ("count", "d", "default", "length", "tojson", "urlencode", "wordcount")
_FILTERS = (*_OF_TEXT, *_OF_LISTS, *_OF_NUMBERS, *_OF_ALL)
_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Extends: "extends",
    nodes.Block: "block",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from",
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.EvalContextModifier: "autoescape",
}


@pass_context
def _as_it_is(_context: Context, value: object) -> object:
    return value


# A finalize that asks for the context: else Jinja works out constants, however large, as it compiles.
_ENVIRONMENT = SandboxedEnvironment(optimized=False, finalize=_as_it_is)
_ENVIRONMENT.filters = {name: _ENVIRONMENT.filters[name] for name in _FILTERS}


def template_names(text: str) -> AbstractSet[str]:
    """The names whose values a template asks for. Raises ValueError with the line of what is wrong."""
    if len(text) > MAX_TEMPLATE_CHARACTERS:
        raise ValueError(f"must have at most {MAX_TEMPLATE_CHARACTERS} characters where it has variables")
    try:
        tokens = (token for token in _ENVIRONMENT.lex(text) if token[1] != "data")
        if next(islice(tokens, MAX_TOKENS, None), None):
            raise ValueError(f"holds more than {MAX_TOKENS} words and signs of template code")
        tree = _ENVIRONMENT.parse(text)
        _refuse_statements(tree)
        _ENVIRONMENT.compile(tree)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"line {error.lineno} of the template: {(error.message or '').rstrip('.')}"
        ) from None
    except (RecursionError, SyntaxError, MemoryError):
        raise ValueError("the template is nested too deeply") from None
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}


def _refuse_statements(tree: nodes.Template) -> None:
    found: Any
    for found in tree.find_all(tuple(_REFUSED)):
        word = next(word for kind, word in _REFUSED.items() if isinstance(found, kind))
        raise TemplateSyntaxError(f"{{% {word} %}} has no place here", found.lineno)
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            raise TemplateSyntaxError("a loop must not be recursive here", loop.lineno)
