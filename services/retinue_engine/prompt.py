"""Fills in the variables of a system prompt. Whatever its template says, time and memory are bounded."""

import functools
import json
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import missing
from jinja2.visitor import NodeTransformer

from retinue.errors import InvalidArgumentError, Violation
from retinue_kit.template_syntax import FILTERS, GLOBALS, parse_template

MAX_TEXT_BYTES = 256 * 1024
"""Of the prompt that comes out."""
MAX_CPU_S = 0.25
"""The event loop waits for a prompt; an honest one takes less than a millisecond."""

_MAX_HANDLED = 2 * 1024 * 1024
"""Characters and values that go through the operations of one prompt."""
_MAX_GROWN = 16 * 1024 * 1024
"""Characters that one operation can make, at worst, of what it is given."""
_MAX_NUMBER = 100_000
_MAX_BITS = 4096
_KEPT_TEMPLATES = 128

_VARIABLES = "run.options.variables"
# No names that a template could use.
_COUNTED = "counted turns"
_JOINED = "joined texts"
_WEIGHED = "weighed values"
_NEVER_GROWING = frozenset(("d", "default", "truncate"))
_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class _UnsetError(UndefinedError):
    """A variable has no value; the message is its name."""


class _Unset(StrictUndefined):
    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[TemplateRuntimeError] = UndefinedError,
    ) -> None:
        variable = obj is missing and hint is None
        super().__init__(name if variable else hint, obj, name, _UnsetError if variable else exc)

    def __repr__(self) -> str:
        # Otherwise one in a list would be written as `Undefined`.
        self._fail_with_undefined_error()


class _Work:
    """What one prompt may still use up."""

    def __init__(self) -> None:
        self._left = _MAX_HANDLED
        self._until_s = time.thread_time() + MAX_CPU_S

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0 or time.thread_time() > self._until_s:
            raise SecurityError("it does too much work")


class _Context(Context):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.work = _Work()


def _size(value: object) -> int:
    """How many characters and values there are in a value; no more than the limit needs."""
    total = 1
    waiting = [value]
    while waiting and total <= _MAX_HANDLED:
        each = waiting.pop()
        if isinstance(each, str | bytes | range):
            total += len(each)
        elif isinstance(each, dict):
            total += len(each)
            waiting += [*each, *each.values()]
        elif isinstance(each, _CONTAINERS):
            total += len(each)
            waiting += each
        elif isinstance(each, int):
            total += each.bit_length()
    return total


def _check_growth(values: Iterable[object]) -> None:
    """Refuse what can make much of little: texts put into one another, widths, counts."""
    grown = 1
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise SecurityError("a number is too large")
        grown *= max(1, abs(value)) if isinstance(value, int) else _size(value)
        if grown > _MAX_GROWN:
            raise SecurityError("too much text is made")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose work is counted, and that makes no more than it may."""
    passed = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def call(context: _Context, value: object, *args: object, **kwargs: object) -> Any:
        context.work.take(_size(value))
        if name == "tojson" and (args or kwargs):
            raise SecurityError("the filter tojson takes no arguments here")
        if name not in _NEVER_GROWING:
            _check_growth((() if isinstance(value, int) else value, *args, *kwargs.values()))
        given = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        result = function(*([given[passed.name]] if passed else ()), value, *args, **kwargs)
        context.work.take(_size(result))
        return result

    return call


@pass_context
def _counted(context: _Context, values: Iterable[object], text: int) -> Iterator[object]:
    for value in values:
        context.work.take(1 + text)
        yield value


@pass_context
def _joined(context: _Context, values: list[object]) -> str:
    context.work.take(_size(values))
    return "".join(map(str, values))


@pass_context
def _weighed(context: _Context, value: object) -> object:
    context.work.take(_size(value))
    return value


@pass_context
def _as_text(context: _Context, value: object) -> object:
    context.work.take(_size(value))
    if value is None:
        return ""
    # As JSON has them, not as Python writes them.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else value


class _Environment(ImmutableSandboxedEnvironment):
    context_class = _Context
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def getattr(self, obj: Any, attribute: str) -> Any:
        # `steps.look.output.items` is what stands under that key, not the method.
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        context.work.take(_size(left) + _size(right))
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("% does not format text here")
        if isinstance(left, int) and isinstance(right, int):
            times = abs(right) if operator == "**" else 2
            if max(left.bit_length() * times, right.bit_length()) > _MAX_BITS:
                raise SecurityError("a number is too large")
        elif operator == "*":
            _check_growth((left, right))
        result = super().call_binop(context, operator, left, right)
        context.work.take(_size(result))
        return result

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        # What a method belongs to is one of its arguments.
        of = getattr(function, "__self__", None)
        context.work.take(_size((of, args, kwargs)))
        if function is not safe_range:
            _check_growth((of, *args, *kwargs.values()))
        result = super().call(context, function, *args, **kwargs)
        context.work.take(_size(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value):
            raise SecurityError("format is not allowed")
        return None


class _Counting(NodeTransformer):
    """Has the turns of loops counted, what `~` joins, and what stands in brackets."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - named by the node
        self.generic_visit(node)
        text = sum(len(each.data) for each in node.find_all(nodes.TemplateData))
        node.iter = _through(_COUNTED, node.iter, nodes.Const(text))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 - named by the node
        self.generic_visit(node)
        return _through(_JOINED, nodes.List(node.nodes, lineno=node.lineno))

    def visit_List(self, node: nodes.List) -> nodes.Filter:  # noqa: N802 - named by the node
        self.generic_visit(node)
        return _through(_WEIGHED, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:  # noqa: N802 - named by the node
        self.generic_visit(node)
        return _through(_WEIGHED, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802 - named by the node
        self.generic_visit(node)
        return _through(_WEIGHED, node) if node.ctx == "load" else node


def _through(name: str, node: nodes.Node, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _environment(finalize: Callable[..., object]) -> _Environment:
    # A finalize that asks for the context: else Jinja works out constants, however large, as it compiles.
    result = _Environment(
        undefined=_Unset, autoescape=False, keep_trailing_newline=True, optimized=False, finalize=finalize
    )
    result.filters = {name: _guarded(name, result.filters[name]) for name in FILTERS}
    result.filters |= {_COUNTED: _counted, _JOINED: _joined, _WEIGHED: _weighed}
    result.globals = {name: result.globals[name] for name in GLOBALS}
    return result


_PROMPTS = _environment(_weighed)
_TEXTS = _environment(_as_text)


@functools.lru_cache(maxsize=_KEPT_TEMPLATES)
def _compiled(environment: _Environment, text: str) -> Template:
    try:
        tree = parse_template(environment, text)
    except ValueError as error:
        raise SecurityError(f"it {error}") from None
    _Counting().visit(tree)
    tree.set_environment(environment)
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.globals)


def render_prompt(template: str, variables: Mapping[str, str]) -> str:
    """A system prompt with its variables filled in; without variables it is no template, and stays as it is.

    Values are data: what looks like a template in them is left alone. Raises InvalidArgumentError.
    """
    if not variables:
        return template
    try:
        return "".join(_bounded(_compiled(_PROMPTS, template).generate(variables)))
    except _UnsetError as error:
        raise _unset(str(error), variables) from None
    except TemplateSyntaxError as error:
        raise _broken(f"line {error.lineno}: {(error.message or '').rstrip('.')}") from None
    except (RecursionError, SyntaxError, MemoryError):
        raise _broken("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - a template raises what the operations in it raise
        raise _broken(str(error)) from None


def render_text(template: str, variables: Mapping[str, Any]) -> str:
    """A text with values filled in, lists and mappings as JSON. Raises ValueError that says what is wrong.

    Values are data, likewise.
    """
    try:
        return "".join(_bounded(_compiled(_TEXTS, template).generate(variables)))
    except _UnsetError as error:
        raise ValueError(f"there is no {error}") from None
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {(error.message or '').rstrip('.')}") from None
    except (RecursionError, SyntaxError, MemoryError):
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - a template raises what the operations in it raise
        raise ValueError(str(error)) from None


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece.encode())
        if size > MAX_TEXT_BYTES:
            raise SecurityError(f"it becomes longer than {MAX_TEXT_BYTES // 1024} KiB")
        yield piece


def _unset(name: str, variables: Mapping[str, str]) -> InvalidArgumentError:
    there = ", ".join(sorted(variables))
    violation = Violation(_VARIABLES, f"has no {name!r}, which the system prompt needs; it has {there}")
    return InvalidArgumentError(
        f"the system prompt needs the variable {name!r}: set it in the run's options or in the agent",
        violations=[violation],
    )


def _broken(why: str) -> InvalidArgumentError:
    message = f"the system prompt cannot be filled in: {why}"
    return InvalidArgumentError(message, violations=[Violation("agent.system_prompt", why)])
