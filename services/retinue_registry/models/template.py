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


def template_steps(text: str) -> AbstractSet[str]:
    """The steps that a template names, as `steps.NAME` or `steps["NAME"]`."""
    tree = _ENVIRONMENT.parse(text)
    found = [(each.node, each.attr) for each in tree.find_all(nodes.Getattr)]
    found += [
        (each.node, each.arg.value)
        for each in tree.find_all(nodes.Getitem)
        if isinstance(each.arg, nodes.Const) and isinstance(each.arg.value, str)
    ]
    return {name for of, name in found if isinstance(of, nodes.Name) and of.name == "steps"}


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
