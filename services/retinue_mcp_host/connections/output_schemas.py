"""Whether structured results fit the schemas that their tools have announced. Neither side is trusted.

A hostile schema could keep a validator busy for hours: the work of one check is counted, and regular
expressions are left out.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import structlog
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from retinue.errors import McpProtocolError
from retinue_mcp_host.model import Tool

log = structlog.get_logger()

MAX_SCHEMA_CHARS = 64 * 1024
"""A longer schema is not checked."""
MAX_STEPS = 20_000
"""Of one check, about a tenth of a second: keywords, and what each looks at. A result that takes more is
passed on, and so are those after it."""
MAX_COMPLAINT_CHARS = 300

_UNCOUNTED = ('"patternProperties"', '"unevaluated')
"""Keywords whose work cannot be counted; a schema with one is not checked."""

_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooMuchWorkError(Exception):
    """A check has taken more steps than it may."""


class _Steps:
    """What is left of one check's work."""

    def __init__(self) -> None:
        self.left = 0

    def counted(self, keyword: _Keyword) -> _Keyword:
        """A keyword that counts."""

        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            self.left -= 1 + _length(value) + _length(instance)
            if self.left < 0:
                raise _TooMuchWorkError
            yield from keyword(validator, value, instance, schema) or ()

        return check


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


class _Compiled:
    """The validator of one tool."""

    def __init__(self, schema: dict[str, Any]) -> None:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
        self._steps = _Steps()
        keywords = {name: self._steps.counted(check) for name, check in kind.VALIDATORS.items()}
        keywords |= {"uniqueItems": self._steps.counted(_unique), "pattern": _unchecked}
        # An empty registry: a reference stays within the schema, nothing is fetched.
        counting = extend(kind, keywords)  # type: ignore[no-untyped-call]
        self._validator: Validator = counting(schema, registry=Registry())

    def complaint(self, value: Any) -> str:
        """What does not fit; empty where all does. Raises _TooMuchWorkError, RecursionError, Unresolvable."""
        self._steps.left = MAX_STEPS
        error = next(self._validator.iter_errors(value), None)
        if error is None:
            return ""
        place = "".join(f"[{each!r}]" for each in error.absolute_path)
        return f"{place or 'it'}: {error.message}"[:MAX_COMPLAINT_CHARS]


class OutputSchemas:
    """The output schemas of one server's tools, compiled when a tool is called first."""

    def __init__(self, server: str, tools: Mapping[str, Tool]) -> None:
        self._server = server
        self._schemas = {name: tool.output_schema_json for name, tool in tools.items()}
        self._compiled: dict[str, _Compiled | None] = {}

    def check(self, tool: str, result: Mapping[str, Any]) -> None:
        """Raises McpProtocolError for a result of tools/call whose structure does not fit."""
        schema = self._schemas.get(tool)
        if not schema or result.get("isError") is True or (value := result.get("structuredContent")) is None:
            return
        if tool not in self._compiled:
            self._compiled[tool] = self._compile(tool, schema)
        compiled = self._compiled[tool]
        if compiled is None:
            return
        try:
            complaint = compiled.complaint(value)
        except (_TooMuchWorkError, RecursionError, Unresolvable) as error:
            self._compiled[tool] = None
            self._tell(tool, f"a result cannot be held to it: {type(error).__name__.strip('_')}")
            return
        if complaint:
            raise McpProtocolError(
                f"MCP server {self._server}: tool {tool} sent a structured result that does not fit its own "
                f"output schema: {complaint}",
                server=self._server,
                tool=tool,
            )

    def _compile(self, tool: str, schema: str) -> _Compiled | None:
        why = ""
        if len(schema) > MAX_SCHEMA_CHARS:
            why = f"it has more than {MAX_SCHEMA_CHARS} characters"
        elif found := next((each for each in _UNCOUNTED if each in schema), None):
            why = f"{found.strip(chr(34))} in it is not supported"
        else:
            try:
                return _Compiled(orjson.loads(schema))
            except (SchemaError, Unresolvable, RecursionError, ValueError) as error:
                why = str(error).partition("\n")[0][:MAX_COMPLAINT_CHARS]
        self._tell(tool, why)
        return None

    def _tell(self, tool: str, why: str) -> None:
        log.info(
            "an output schema is not used: results pass unchecked", server=self._server, tool=tool, why=why
        )


def _unique(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    # The library's compares each with each where they cannot be sorted.
    del validator, schema
    if unique is True and isinstance(instance, list):
        seen = {orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in instance}
        if len(seen) < len(instance):
            yield ValidationError("its items are not unique")


def _unchecked(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    del validator, value, instance, schema
    yield from ()
