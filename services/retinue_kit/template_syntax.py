"""What a template may be made of. The registry refuses all else, the engine fills in what is left.

For services that have Jinja2; nothing is rendered here.
"""

from itertools import islice
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

MAX_TEMPLATE_CHARACTERS = 256 * 1024
MAX_TOKENS = 4000
"""Of statements and expressions, spaces included: compiling takes some 50 µs for each."""

_OF_TEXT = ("capitalize", "indent", "lower", "replace", "string", "title", "trim", "truncate", "upper")
_OF_LISTS = ("first", "join", "last", "list", "map", "reject", "reverse", "select", "sort", "unique")
_OF_NUMBERS = ("abs", "float", "int", "max", "min", "round")
_OF_ALL = ("count", "d", "default", "length", "tojson", "urlencode", "wordcount")
GLOBALS = frozenset(("range", "dict", "namespace", "cycler", "joiner"))
"""What a template may call."""

FILTERS = (*_OF_TEXT, *_OF_LISTS, *_OF_NUMBERS, *_OF_ALL)
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


def parse_template(environment: Environment, text: str) -> nodes.Template:
    """The tree of a template that has only what is allowed.

    Raises ValueError for one that is too long, TemplateSyntaxError with the line of what is wrong, and what
    Python raises where it is nested too deeply: RecursionError, SyntaxError, MemoryError.
    """
    if len(text) > MAX_TEMPLATE_CHARACTERS:
        raise ValueError(f"must have at most {MAX_TEMPLATE_CHARACTERS} characters where it has variables")
    tokens = (token for token in environment.lex(text) if token[1] != "data")
    if next(islice(tokens, MAX_TOKENS, None), None):
        raise ValueError(f"holds more than {MAX_TOKENS} words and signs of template code")
    tree = environment.parse(text)
    found: Any
    for found in tree.find_all(tuple(_REFUSED)):
        word = next(word for kind, word in _REFUSED.items() if isinstance(found, kind))
        raise TemplateSyntaxError(f"{{% {word} %}} has no place here", found.lineno)
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            raise TemplateSyntaxError("a loop must not be recursive here", loop.lineno)
    return tree
