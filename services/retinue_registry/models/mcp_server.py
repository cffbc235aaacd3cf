"""The rules of an MCP server."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from retinue_registry.models.fields import (
    Broken,
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
    relative_references,
    secret_in_folder,
)

TRANSPORTS = ("stdio", "streamable_http")
"""The fields of the protos' oneof `transport`."""


class StdioTransport(Part):
    """A server that the host starts as a process."""

    command: Required
    args: list[Text] | None = None
    env: Annotated[dict[EnvName, SecretText], Secret()] | None = None
    cwd: Required | None = None


class StreamableHttpTransport(Part):
    """A server that is there already."""

    url: Url
    headers: Headers | None = None


def _needs_folder(command: str) -> bool:
    """Whether a command is a relative path, not a name to be found on PATH."""
    return "/" in command and not Path(command).is_absolute()


class McpServerSpec(Spec):
    """An MCP server and how to start or reach it."""

    description: Text | None = None
    stdio: StdioTransport | None = None
    streamable_http: StreamableHttpTransport | None = None
    connect_timeout: Duration | None = None
    call_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    allow_sampling: bool | None = None

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield that it has no transport, or two."""
        found = [name for name in TRANSPORTS if name in given]
        if not found:
            yield Broken((), "needs a transport: set stdio (a command to start) or streamable_http (a url)")
        elif len(found) > 1:
            yield Broken((found[-1],), f"has {' and '.join(found)}: set one of them")

    def without_folder(self) -> Iterator[Broken]:
        """Yield the relative paths of its process and of its secrets."""
        if self.stdio:
            if _needs_folder(self.stdio.command):
                yield Broken(
                    ("stdio", "command"), "must be a name on PATH or an absolute path where it comes by API"
                )
            if self.stdio.cwd and not Path(self.stdio.cwd).is_absolute():
                yield Broken(("stdio", "cwd"), "must be an absolute path where it comes by API")
            for name, value in (self.stdio.env or {}).items():
                yield from relative_references(("stdio", "env", name), value)
        if self.streamable_http:
            for name, value in (self.streamable_http.headers or {}).items():
                yield from relative_references(("streamable_http", "headers", name), value)

    def in_folder(self, folder: Path) -> Self:
        """The same with command, cwd and the paths of its secrets absolute; a missing cwd is the folder."""
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
        if (http := self.streamable_http) and http.headers:
            headers = {k: secret_in_folder(v, folder) for k, v in http.headers.items()}
            changes["streamable_http"] = http.model_copy(update={"headers": headers})
        return self.model_copy(update=changes)
