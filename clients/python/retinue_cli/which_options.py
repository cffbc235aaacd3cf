"""The options that say which components are meant: `--name`, `--label`, `--source`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer

from retinue_cli.pairs import pairs_from


class Source(StrEnum):
    """Where components come from; SourceType in the protos' order."""

    API = "api"
    PROJECT = "project"
    WORKSPACE = "workspace"
    USER = "user"
    PACKAGE = "package"


class Which(NamedTuple):
    """As `Components.list` takes them."""

    name_pattern: str
    labels: Mapping[str, str]
    source: Any
    """The number of SourceType; 0 is anywhere."""


def which_options(
    *,
    name: Annotated[
        str,
        typer.Option("--name", metavar="PATTERN", help="Only names that fit, with * ? and [abc]."),
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="Only with this label; repeatable."),
    ] = None,
    source: Annotated[Source | None, typer.Option("--source", help="Only what comes from there.")] = None,
) -> Which:
    """What the options say."""
    number = list(Source).index(source) + 1 if source else 0
    return Which(name, pairs_from("a label", label), number)
