"""The file in which logins outlast the host's process. Its tokens are as good as passwords."""

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from retinue_mcp_host.logins.login import Login, LoginKey

MAX_FILE_BYTES = 16 * 1024 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class _Kept:
    namespace: str
    server: str
    config: str
    login: Login


@dataclass(frozen=True, slots=True)
class _Content:
    version: int
    logins: list[_Kept]


_CONTENT = TypeAdapter(_Content)
VERSION = 1


class LoginsFile:
    """Reads the file once and writes it whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[tuple[LoginKey, Login]]:
        """What is kept; nothing where there is no file. Raises OSError, ValueError where it is another."""
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return []
        if mode & _OTHERS:
            raise ValueError(
                f"RETINUE_LOGINS_FILE {self._path} can be read by others: its tokens may be known to them; "
                "delete it, or `chmod 600` where you know that nobody has"
            )
        try:
            content = _CONTENT.validate_json(data if len(data) <= MAX_FILE_BYTES else b"")
        except ValidationError:
            # Its own words would show the tokens.
            raise ValueError(self._not_ours()) from None
        if content.version != VERSION:
            raise ValueError(self._not_ours())
        return [(LoginKey(each.namespace, each.server, each.config), each.login) for each in content.logins]

    def _not_ours(self) -> str:
        return (
            f"RETINUE_LOGINS_FILE {self._path} is no file of logins of this version: name another, or "
            "delete it and log in again"
        )

    def save(self, logins: Iterable[tuple[LoginKey, Login]]) -> None:
        """Write all logins in place of what is kept: the file is the old or the new one at every moment.

        Raises OSError.
        """
        content = _Content(VERSION, [_Kept(*key, login) for key, login in logins])
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.unlink(missing_ok=True)
        opened = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(orjson.dumps(content))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


@contextmanager
def open_logins_file(path: Path) -> Iterator[LoginsFile]:
    """Take the file for this process alone: two hosts would use up each other's refresh tokens.

    Raises OSError, ValueError where another host has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    with os.fdopen(lock) as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another MCP host keeps its logins in RETINUE_LOGINS_FILE {path}: give each its own file"
            ) from None
        yield LoginsFile(path)
