"""The rules of an MCP server."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict

from retinue_registry.models.fields import (
    Broken,
    Count,
    Duration,
    EnvName,
    Headers,
    Part,
    Required,
    Secret,
    SecretText,
    Spec,
    Text,
    Url,
    once_each,
    optional,
    relative_references,
    required,
    secret_in_folder,
)
from retinue_registry.models.oauth import EXAMPLE, OAUTH_SECRETS, OAuthSettings, check_oauth

TRANSPORTS = ("stdio", "streamable_http", "sse")
"""The fields of the protos' oneof `transport`."""

_FILE_URI = "file://"


def _root(text: str) -> str:
    if "://" in text and not text.startswith(f"{_FILE_URI}/"):
        raise ValueError("must be a path, or an address that begins with file:///")
    return text


Root = Annotated[Required, AfterValidator(_root)]


class StdioTransport(Part):
    """A server that the host starts as a process."""

    command: Required = required("uvx")
    args: list[Text] | None = optional(["mcp-server-time"])
    env: Annotated[dict[EnvName, SecretText], Secret()] | None = optional({"TOKEN": "${env:TOKEN}"})
    cwd: Required | None = optional("tools")

    def without_folder(self) -> Iterator[Broken]:
        """Yield the relative paths of the process and its secrets."""
        if _needs_folder(self.command):
            yield Broken(
                ("stdio", "command"), "must be a name on PATH or an absolute path where it comes by API"
            )
        if self.cwd and not Path(self.cwd).is_absolute():
            yield Broken(("stdio", "cwd"), "must be an absolute path where it comes by API")
        for name, value in (self.env or {}).items():
            yield from relative_references(("stdio", "env", name), value)


class TlsSettings(Part):
    """How a TLS connection is made."""

    ca_file: Required | None = optional("certs/ca.pem")
    cert_file: Required | None = optional("certs/client.pem")
    key_file: Required | None = optional("certs/client.key")


class StreamableHttpTransport(Part):
    """A server that is there already."""

    url: Url = required("https://example.com/mcp")
    headers: Headers | None = optional({"Authorization": "Bearer ${env:TOKEN}"})
    tls: TlsSettings | None = optional({"ca_file": "certs/ca.pem"})
    oauth: OAuthSettings | None = optional(EXAMPLE)


class SseTransport(Part):
    """A server that is there already, of an older kind."""

    url: Url = required("https://example.com/sse")
    headers: Headers | None = optional({"Authorization": "Bearer ${env:TOKEN}"})
    tls: TlsSettings | None = optional({"ca_file": "certs/ca.pem"})
    oauth: OAuthSettings | None = optional(EXAMPLE)


def _needs_folder(command: str) -> bool:
    """Whether a command is a relative path, not a name to be found on PATH."""
    return "/" in command and not Path(command).is_absolute()


class McpServerSpec(Spec):
    """An MCP server and how to start or reach it."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in TRANSPORTS]})

    description: Text | None = optional("Tells the time.")
    stdio: StdioTransport | None = optional({"command": "uvx", "args": ["mcp-server-time"]})
    streamable_http: StreamableHttpTransport | None = optional({"url": "https://example.com/mcp"})
    connect_timeout: Duration | None = optional("10s", default="30s")
    call_timeout: Duration | None = optional("2m", default="60s")
    idle_timeout: Duration | None = optional("1h", default="5m")
    allow_sampling: bool | None = optional(True, default=False)
    sse: SseTransport | None = optional({"url": "https://example.com/sse"})
    scope: Literal["shared", "session", "run"] | None = optional("session", default="shared")
    prewarm: bool | None = optional(True, default=False)
    max_concurrent_calls: Count | None = optional(8, default=64)
    max_queued_calls: Count | None = optional(100, default=1_000)
    roots: Annotated[list[Root], AfterValidator(once_each)] | None = optional(["data"])
    revision: Literal["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"] | None = optional(
        "2026-07-28"
    )

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield that it has no transport, or two, and settings that cannot have an effect."""
        found = [name for name in TRANSPORTS if name in given]
        if not found:
            yield Broken(
                (),
                "needs a transport: set stdio (a command to start), streamable_http or sse (a url)",
            )
        elif len(found) > 1:
            yield Broken((found[-1],), f"has {' and '.join(found)}: set one of them")
        if given.get("prewarm") is True and given.get("scope", "shared") != "shared":
            yield Broken(("prewarm",), "is for the scope shared: nobody knows the sessions and runs to come")
        for name in ("streamable_http", "sse"):
            http = given.get(name)
            if not isinstance(http, dict):
                continue
            if isinstance(tls := http.get("tls"), dict):
                yield from _tls(name, http.get("url"), tls)
            if isinstance(oauth := http.get("oauth"), dict):
                yield from check_oauth(name, http, oauth)

    def without_folder(self) -> Iterator[Broken]:
        """Yield the relative paths of its process, its secrets, its certificates and its roots."""
        if self.stdio:
            yield from self.stdio.without_folder()
        for transport in ("streamable_http", "sse"):
            if http := getattr(self, transport):
                yield from _http_without_folder(transport, http)
        for index, root in enumerate(self.roots or ()):
            if not root.startswith(_FILE_URI) and not Path(root).is_absolute():
                yield Broken(("roots", index), "must be an absolute path where it comes by API")

    def in_folder(self, folder: Path) -> Self:
        """The same with command, cwd and all its other paths absolute; a missing cwd is the folder."""
        changes: dict[str, Any] = {}
        if stdio := self.stdio:
            # normpath: `./x/../server` and `server` are the same place, and so the same version.
            changes["stdio"] = stdio.model_copy(
                update={
                    "command": os.path.normpath(folder / stdio.command)
                    if _needs_folder(stdio.command)
                    else stdio.command,
                    "cwd": os.path.normpath(folder / stdio.cwd) if stdio.cwd else str(folder),
                    "env": {k: secret_in_folder(v, folder) for k, v in stdio.env.items()}
                    if stdio.env
                    else None,
                }
            )
        for transport in ("streamable_http", "sse"):
            if http := getattr(self, transport):
                changes[transport] = _http_in_folder(http, folder)
        if self.roots:
            changes["roots"] = [
                root if root.startswith(_FILE_URI) else os.path.normpath(folder / root) for root in self.roots
            ]
        return self.model_copy(update=changes)


def _tls(transport: str, url: object, tls: Mapping[str, Any]) -> Iterator[Broken]:
    if isinstance(url, str) and url.startswith("http://"):
        yield Broken((transport, "tls"), "is without effect: the url begins with http://")
    if ("cert_file" in tls) != ("key_file" in tls):
        yield Broken((transport, "tls"), "needs cert_file and key_file together")


def _http_without_folder(transport: str, http: StreamableHttpTransport | SseTransport) -> Iterator[Broken]:
    for name, value in (http.headers or {}).items():
        yield from relative_references((transport, "headers", name), value)
    for name, path in (http.tls.model_dump(exclude_none=True) if http.tls else {}).items():
        if not Path(path).is_absolute():
            yield Broken((transport, "tls", name), "must be an absolute path where it comes by API")
    for name in OAUTH_SECRETS if http.oauth else ():
        yield from relative_references((transport, "oauth", name), getattr(http.oauth, name) or "")


def _http_in_folder(
    http: StreamableHttpTransport | SseTransport, folder: Path
) -> StreamableHttpTransport | SseTransport:
    changes: dict[str, Any] = {}
    if http.headers:
        changes["headers"] = {k: secret_in_folder(v, folder) for k, v in http.headers.items()}
    if http.tls:
        paths = http.tls.model_dump(exclude_none=True).items()
        changes["tls"] = TlsSettings(**{name: os.path.normpath(folder / path) for name, path in paths})
    if oauth := http.oauth:
        given = {name: text for name in OAUTH_SECRETS if (text := getattr(oauth, name))}
        changes["oauth"] = oauth.model_copy(
            update={name: secret_in_folder(text, folder) for name, text in given.items()}
        )
    return http.model_copy(update=changes)
