"""What servers have beside tools: resources, prompts, completions, from a server's name to the answer."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import structlog

from retinue.errors import (
    McpCapabilityMissingError,
    McpProtocolError,
    McpRequestRefusedError,
    McpResourceNotFoundError,
    PayloadTooLargeError,
    RetinueError,
)
from retinue_mcp_host.connections.connection import Connection
from retinue_mcp_host.connections.results import size_of
from retinue_mcp_host.content.items import (
    MAX_ENTRY_BYTES,
    Completions,
    Entry,
    FilledPrompt,
    Prompt,
    ResourceContents,
    completions_from_json,
    contents_from_json,
    entry_bytes,
    message_from_json,
    prompt_from_json,
    resource_from_json,
    template_from_json,
)
from retinue_mcp_host.failures import SessionLostError
from retinue_mcp_host.model import CallerScope
from retinue_mcp_host.servers.routes import Routes

log = structlog.get_logger()

MAX_PAGES = 1000
"""Of one server's list; what goes on has no end."""
MAX_CURSOR_CHARS = 4096
MAX_PAGE_BYTES = 1024 * 1024
"""Of one page; what is beyond is on the next one."""
MAX_KNOWN_PROMPTS = 1000
"""That are looked through to see whether a prompt exists."""

_METHOD_NOT_FOUND = "-32601"
_UNKNOWN_RESOURCE = frozenset({"-32002", "-32602"})
"""MCP's code for it up to 2025-11-25, and since; a read has no other param that could be invalid."""
_OLDEST_REVISION = "2024-11-05"
"""Which had completions but no word for having them."""


class Place(NamedTuple):
    """Whose connection to which server is meant."""

    namespace: str
    server: str
    version: int
    """0 for the current one."""
    scope: CallerScope


class Cursor(NamedTuple):
    """A place in a server's list."""

    cursor: str = ""
    """The server's own; empty for the beginning."""
    skip: int = 0
    """Entries of that page that are behind."""
    pages: int = 0
    """The server's pages that are behind."""


class Listing(NamedTuple):
    """One of a server's lists."""

    method: str
    key: str
    """Where the entries stand in its pages."""
    capability: str
    parse: Callable[[Any], Entry | None]


RESOURCES = Listing("resources/list", "resources", "resources", resource_from_json)
TEMPLATES = Listing("resources/templates/list", "resourceTemplates", "resources", template_from_json)
PROMPTS = Listing("prompts/list", "prompts", "prompts", prompt_from_json)


class Contents:
    """Asks servers for what they have beside tools."""

    def __init__(self, routes: Routes, max_result_bytes: int) -> None:
        self._routes = routes
        self._max_result_bytes = max_result_bytes

    async def page(
        self, place: Place, listing: Listing, at: Cursor, limit: int
    ) -> tuple[list[Entry], Cursor | None]:
        """At most `limit` entries of a server's list, and where it goes on. Raises RetinueError."""
        entries: list[Entry] = []
        size = 0
        seen = {at.cursor}
        while True:
            if at.pages >= MAX_PAGES:
                raise _broken(place, f"its list of {listing.key} has more than {MAX_PAGES} pages")
            page = await self._ask(
                place, listing.method, {"cursor": at.cursor} if at.cursor else {}, listing.capability
            )
            items = page.get(listing.key)
            if not isinstance(items, list):
                raise _broken(place, f"its list of {listing.key} is no list")
            for index in range(at.skip, len(items)):
                if len(entries) == limit or size >= MAX_PAGE_BYTES:
                    return entries, at._replace(skip=index)
                entry = _entry(place, listing, items[index])
                if entry is not None:
                    entries.append(entry)
                    size += entry_bytes(entry)
            cursor = page.get("nextCursor") or ""
            if not cursor:
                return entries, None
            if not isinstance(cursor, str) or cursor in seen or len(cursor) > MAX_CURSOR_CHARS:
                raise _broken(place, f"its list of {listing.key} goes in a circle")
            seen.add(cursor)
            at = Cursor(cursor, 0, at.pages + 1)
            if len(entries) == limit or size >= MAX_PAGE_BYTES:
                return entries, at

    async def read(self, place: Place, uri: str) -> list[ResourceContents]:
        """What a resource holds. Raises RetinueError."""
        try:
            raw = await self._ask(place, "resources/read", {"uri": uri}, "resources")
        except McpRequestRefusedError as refused:
            if refused.facts.get("code") in _UNKNOWN_RESOURCE:
                raise McpResourceNotFoundError(
                    f"MCP server {place.server} has no resource {uri}: {refused.message}",
                    server=place.server,
                    uri=uri,
                ) from None
            raise
        items = raw.get("contents")
        if not isinstance(items, list):
            raise _broken(place, f"the contents of {uri} are no list")
        found = [each for item in items if (each := contents_from_json(item, uri)) is not None]
        if items and not found:
            raise _broken(place, f"the contents of {uri} are neither text nor base64")
        size = sum(
            size_of(each.contents) if isinstance(each.contents, str) else len(each.contents) for each in found
        )
        if size > self._max_result_bytes:
            raise self._too_large(place, f"resource {uri}", size)
        return found

    async def prompt(self, place: Place, name: str, arguments: Mapping[str, str]) -> FilledPrompt:
        """A prompt with its arguments filled in. Raises RetinueError."""
        try:
            raw = await self._ask(
                place, "prompts/get", {"name": name, "arguments": dict(arguments)}, "prompts"
            )
        except McpRequestRefusedError:
            # MCP has no code for a prompt that does not exist; its list says whether it does.
            await self._check_prompt(place, name)
            raise
        items = raw.get("messages")
        if not isinstance(items, list):
            raise _broken(place, f"the messages of prompt {name} are no list")
        messages = tuple(
            each for item in items if (each := message_from_json(item, place.server)) is not None
        )
        size = sum(size_of(each.content) for each in messages)
        if size > self._max_result_bytes:
            raise self._too_large(place, f"prompt {name}", size)
        description = raw.get("description")
        return FilledPrompt(description if isinstance(description, str) else "", messages)

    async def _check_prompt(self, place: Place, name: str) -> None:
        """Raises McpResourceNotFoundError for a prompt that the server does not list."""
        names: list[str] = []
        at: Cursor | None = Cursor()
        try:
            while at is not None and len(names) < MAX_KNOWN_PROMPTS:
                entries, at = await self.page(place, PROMPTS, at, MAX_KNOWN_PROMPTS)
                names += [each.name for each in entries if isinstance(each, Prompt)]
        except RetinueError as error:
            log.debug("prompts could not be listed", server=place.server, error=error.message)
            return
        if at is None and name not in names:
            nearest = next(iter(difflib.get_close_matches(name, names, n=1)), None)
            hint = f": did you mean {nearest}?" if nearest else f": it has {len(names)} prompts"
            raise McpResourceNotFoundError(
                f"MCP server {place.server} has no prompt {name}{hint}",
                server=place.server,
                prompt=name,
                nearest=nearest,
            )

    async def complete(
        self, place: Place, ref: Mapping[str, str], argument: str, value: str, given: Mapping[str, str]
    ) -> Completions:
        """How an argument of what `ref` names, as MCP has it, may go on. Raises RetinueError."""
        params: dict[str, Any] = {"ref": dict(ref), "argument": {"name": argument, "value": value}}
        if given:
            params["context"] = {"arguments": dict(given)}
        found = completions_from_json(await self._ask(place, "completion/complete", params, "completions"))
        if found is None:
            raise _broken(place, "its completion is out of shape")
        return found

    async def _ask(
        self, place: Place, method: str, params: dict[str, Any], capability: str
    ) -> dict[str, Any]:
        """Ask a server that says that it can. Raises RetinueError."""
        connection = await self._routes.connection(*place)
        check_capability(connection, capability)
        try:
            try:
                raw = await connection.request(method, params)
            except SessionLostError:
                connection = await self._routes.connection(*place)
                raw = await connection.request(method, params)
        except McpRequestRefusedError as refused:
            if refused.facts.get("code") == _METHOD_NOT_FOUND:
                raise _missing(place.server, capability) from None
            raise
        if raw.get("resultType", "complete") != "complete":
            raise McpRequestRefusedError(
                f"MCP server {place.server} asks back before it answers {method}, and nobody can be asked",
                server=place.server,
            )
        return raw

    def _too_large(self, place: Place, what: str, size: int) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"{what} of MCP server {place.server} has {size} bytes and the MCP host passes on at most "
            f"{self._max_result_bytes}: raise RETINUE_MAX_RESULT_BYTES where it is started",
            server=place.server,
            size_bytes=size,
            limit_bytes=self._max_result_bytes,
        )


def check_capability(connection: Connection, capability: str) -> None:
    """Raises McpCapabilityMissingError where an open connection's server does not have a part of MCP."""
    info = connection.info
    if info is None or getattr(info, capability):
        return
    if capability == "completions" and info.revision == _OLDEST_REVISION:
        return
    raise _missing(connection.spec.name, capability)


def _missing(server: str, capability: str) -> McpCapabilityMissingError:
    return McpCapabilityMissingError(
        f"MCP server {server} has no {capability.replace('_', ' ')}", server=server, capability=capability
    )


def _entry(place: Place, listing: Listing, item: Any) -> Entry | None:
    entry = listing.parse(item)
    if entry is None or entry_bytes(entry) > MAX_ENTRY_BYTES:
        log.debug("an entry was left out", server=place.server, list=listing.key)
        return None
    return entry


def _broken(place: Place, how: str) -> McpProtocolError:
    return McpProtocolError(f"MCP server {place.server}: {how}", server=place.server)
