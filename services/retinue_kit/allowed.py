"""What components that came by API may use: the operator's lists in, a verdict out. Files are trusted."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from retinue.errors import ComponentNotAllowedError
from retinue_kit.allowed_hosts import HostRule, Reach, parse_host
from retinue_kit.secrets import REFERENCE

API_ENV = "RETINUE_API_ENV"
API_FILES = "RETINUE_API_FILES"
API_COMMANDS = "RETINUE_API_COMMANDS"
API_MODULES = "RETINUE_API_MODULES"

_GLOB = re.compile(r"[*?\[]")
_LOADER_VARIABLES = ("PATH", "LD_*", "DYLD_*")
"""They put another program, or other code, in the place of a launcher that is listed."""


class Place(NamedTuple):
    """A field of a component."""

    kind: str
    """`llm`."""
    name: str
    field: str
    """Inside the spec: `headers.Authorization`."""


def listed(text: str) -> tuple[str, ...]:
    """The entries of a setting that lists them with commas."""
    return tuple(entry for each in text.split(",") if (entry := each.strip()))


def parse_files(text: str) -> tuple[str, ...]:
    """The entries of RETINUE_API_FILES. Raises ValueError."""
    for entry in listed(text):
        if not Path(entry).is_absolute():
            raise ValueError(f"{entry!r} is not an absolute path: write it from / on")
    return listed(text)


def parse_hosts(text: str) -> tuple[HostRule, ...]:
    """The entries of RETINUE_API_HOSTS. Raises ValueError."""
    return tuple(map(parse_host, listed(text)))


@dataclass(frozen=True, slots=True)
class Allowed:
    """The operator's lists, as one service has them; empty ones allow nothing."""

    service: str = "service"
    """Who has them, for messages: `engine`."""
    env: tuple[str, ...] = ()
    """Patterns of names of environment variables."""
    files: tuple[str, ...] = ()
    """Patterns of absolute paths; what is below one is meant with it."""
    hosts: tuple[HostRule, ...] = ()
    commands: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """Patterns of names of Python modules."""

    def check_secret(self, place: Place, text: str) -> None:
        """Raise ComponentNotAllowedError for a reference in a text that is not listed."""
        for kind, name in REFERENCE.findall(text):
            if kind == "file":
                self.check_file(place, name)
            elif not any(fnmatchcase(name, pattern) for pattern in self.env):
                raise self._refusal(place, f"the environment variable {name}", API_ENV)

    def check_file(self, place: Place, path: str) -> None:
        """Raise ComponentNotAllowedError for a file that is not listed, wherever links to it stand."""
        parts = Path(os.path.realpath(path)).parts
        for entry in self.files:
            wanted = _resolved(Path(entry)).parts
            if len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted)):
                return
        raise self._refusal(place, f"the file {path}", API_FILES)

    def check_command(self, place: Place, command: str, variables: Iterable[str]) -> None:
        """Raise ComponentNotAllowedError for a launcher that is not listed, or that variables replace."""
        if command not in self.commands:
            raise self._refusal(place, f"the command {command}", API_COMMANDS)
        self._check_variables(place, variables, API_COMMANDS)

    def check_module(self, place: Place, module: str, variables: Iterable[str]) -> None:
        """Raise ComponentNotAllowedError for a module that is not listed, or that variables replace."""
        if not any(fnmatchcase(module, pattern) for pattern in self.modules):
            raise self._refusal(place, f"the module {module}", API_MODULES)
        self._check_variables(place, variables, API_MODULES, (*_LOADER_VARIABLES, "PYTHON*"))

    @staticmethod
    def _check_variables(
        place: Place,
        variables: Iterable[str],
        setting: str,
        patterns: Iterable[str] = _LOADER_VARIABLES,
    ) -> None:
        outer = place.field.rpartition(".")[0]
        for name in variables:
            if any(fnmatchcase(name.upper(), pattern) for pattern in patterns):
                field = f"{outer}.env.{name}" if outer else f"env.{name}"
                raise ComponentNotAllowedError(
                    f"{place.kind} {place.name} came by API, where {name} may not be set: it decides which "
                    "program a listed one is; put the component into a file",
                    **place._replace(field=field)._asdict(),
                    setting=setting,
                )

    def reach(self, place: Place, *, secret: bool) -> Reach:
        """Where the address in a field may lead; `secret` says whether secrets go there."""
        return Reach(*place, service=self.service, rules=self.hosts, secret=secret)

    def _refusal(self, place: Place, what: str, setting: str) -> ComponentNotAllowedError:
        return ComponentNotAllowedError(
            f"{place.kind} {place.name} came by API and its {place.field} names {what}, which is not listed: "
            f"add it to {setting} where the {self.service} is started, or put the component into a file",
            **place._asdict(),
            setting=setting,
        )


def _resolved(entry: Path) -> Path:
    """The entry with the links in it resolved, as far as it is no pattern."""
    fixed = Path(*takewhile(lambda part: not _GLOB.search(part), entry.parts))
    return Path(os.path.realpath(fixed), *entry.parts[len(fixed.parts) :])
