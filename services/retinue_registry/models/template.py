"""The rules of a Jinja2 template. It is compiled here and never rendered: the engine does that."""

from collections.abc import Set as AbstractSet

from jinja2 import TemplateSyntaxError, meta, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from retinue_kit.template_syntax import FILTERS, GLOBALS, parse_template


@pass_context
def _as_it_is(_context: Context, value: object) -> object:
    return value


# A finalize that asks for the context: else Jinja works out constants, however large, as it compiles.
_ENVIRONMENT = SandboxedEnvironment(optimized=False, finalize=_as_it_is)
_ENVIRONMENT.filters = {name: _ENVIRONMENT.filters[name] for name in FILTERS}


def template_paths(text: str) -> AbstractSet[tuple[str, ...]]:
    """What a template names, each as far as its names are known: `steps.plan.output` in three parts.

    The name of a method that is called is no part. Raises jinja2.TemplateSyntaxError.
    """
    tree = _ENVIRONMENT.parse(text)
    called = {id(each.node) for each in tree.find_all(nodes.Call)}
    found = {_path(each) for each in tree.find_all((nodes.Getattr, nodes.Getitem)) if id(each) not in called}
    return found - {()}


def _path(node: nodes.Node) -> tuple[str, ...]:
    """Of `a.b["c"]` its three parts; empty where a part is worked out."""
    if isinstance(node, nodes.Name):
        return (node.name,)
    if isinstance(node, nodes.Getattr):
        inner, part = _path(node.node), node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        inner, part = _path(node.node), node.arg.value
    else:
        return ()
    return (*inner, part) if inner and isinstance(part, str) else ()


def template_steps(text: str) -> AbstractSet[str]:
    """The steps that a template names, as `steps.NAME` or `steps["NAME"]`."""
    return {path[1] for path in template_paths(text) if path[0] == "steps"}


def free_names(text: str) -> AbstractSet[str]:
    """The names that a template asks for and does not set itself. Raises ValueError, likewise."""
    template_names(text)
    return meta.find_undeclared_variables(_ENVIRONMENT.parse(text)) - GLOBALS


def template_names(text: str) -> AbstractSet[str]:
    """The names whose values a template asks for. Raises ValueError with the line of what is wrong."""
    try:
        tree = parse_template(_ENVIRONMENT, text)
        _ENVIRONMENT.compile(tree)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"line {error.lineno} of the template: {(error.message or '').rstrip('.')}"
        ) from None
    except (RecursionError, SyntaxError, MemoryError):
        raise ValueError("the template is nested too deeply") from None
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
