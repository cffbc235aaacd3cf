"""CEL expressions: what may stand in one, and how it is compiled."""

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import cel

MAX_SOURCE_BYTES = 2 * 1024

_RESERVED = {"loop": "loop_"}
_ORDINARY = {other: name for name, other in _RESERVED.items()}
_MACROS = frozenset(("all", "exists", "exists_one", "filter", "map"))
_TOKEN = re.compile(
    r"""[rRbB]*("{3}.*?"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<sign>\S)""",
    re.DOTALL,
)


class Expression:
    """An expression that is compiled."""

    def __init__(self, program: "cel.Program") -> None:
        self._program = program
        self.names = frozenset(_ORDINARY.get(name, name) for name in program.variables())
        """The names that it uses; those that it binds itself are among them."""

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """What it makes of values, of which it is handed those that it names. Raises what CEL raises."""
        named = self.names & values.keys()
        return self._program.execute({_RESERVED.get(name, name): values[name] for name in named})


@functools.lru_cache(maxsize=1024)
def compile_expression(source: str) -> Expression:
    """Compile an expression. Raises ValueError that says what is wrong with it."""
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise ValueError(f"must have at most {MAX_SOURCE_BYTES} bytes: let a step work it out")
    if _nests_comprehensions(source):
        # Their work grows by the power of their depth.
        raise ValueError("must not have map, filter, all or exists inside one another")
    # It brings a command line of its own, which takes longer to import than a service's own parts.
    import cel  # noqa: PLC0415 - see above

    try:
        return Expression(cel.compile(_without_reserved(source)))
    except ValueError as error:
        if "Recursion limit" in str(error):
            raise ValueError("is nested too deeply: let a step work part of it out") from None
        raise ValueError(f"is no CEL expression: {_first_line(str(error))}") from None


def _first_line(message: str) -> str:
    found = re.search(r"ERROR: <input>:(\d+):(\d+): (.*)", message)
    if found is None:
        return message.splitlines()[0][:200] if message else "it cannot be read"
    line, column, what = found.groups()
    # The parser lists all that might stand there.
    what = what.partition(" expecting ")[0].removeprefix("Syntax error: ")
    if "<EOF>" in what or what.startswith("Incomplete"):
        what = "it ends too early"
    return f"line {line}, column {column}: {what[:160]}"


def _without_reserved(source: str) -> str:
    """The source with other names for those that CEL keeps for itself and we give to people."""
    text, end, before = "", 0, ""
    for token in _TOKEN.finditer(source):
        name = token["name"]
        if name in _RESERVED and before != ".":
            text += source[end : token.start()] + _RESERVED[name]
            end = token.end()
        before = token["sign"] or ""
    return text + source[end:]


def _nests_comprehensions(source: str) -> bool:
    open_macros: list[bool] = []
    name = ""
    for token in _TOKEN.finditer(source):
        sign = token["sign"]
        if sign == "(":
            macro = name in _MACROS
            if macro and any(open_macros):
                return True
            open_macros.append(macro)
        elif sign == ")" and open_macros:
            open_macros.pop()
        name = token["name"] or ""
    return False


def named_paths(source: str) -> set[tuple[str, ...]]:
    """What an expression names, each as far as its names are known: `steps.plan.output` in three parts.

    The name of a function is no part.
    """
    found: set[tuple[str, ...]] = set()
    path: list[str] = []
    before = ""
    for token in _TOKEN.finditer(source):
        text = token["name"] or token["sign"] or ""
        if token["name"] and before == "." and path:
            path.append(text)
        elif text != "." or not path:
            found.add(tuple(path[:-1] if text == "(" else path))
            path = [text] if token["name"] and before != "." else []
        before = text
    return (found | {tuple(path)}) - {()}


def step_names(source: str) -> set[str]:
    """The steps that an expression names, as `steps.NAME`."""
    return {path[1] for path in named_paths(source) if path[0] == "steps" and len(path) > 1}
