"""Finds the components that installed distributions bring, by their entry points. Nothing is imported."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "retinue.components"
ENTRY_POINTS = "entry_points.txt"
"""The file of a distribution that names its entry points."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package with components, or why an entry point leads to none."""

    distribution: str
    folder: Path | None
    """None where it was not found."""
    wrong: str = ""
    """What is wrong with the entry point; empty where nothing is."""


def find_packages() -> tuple[Package, ...]:
    """The packages of all distributions on the import path, in the order of the distributions' names."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        name = (entry.dist and entry.dist.name) or entry.name
        if entry not in found.setdefault(name, []):  # a folder may stand on the import path twice
            found[name].append(entry)
    return tuple(each for name in sorted(found) for each in _packages(name, found[name]))


def _packages(distribution: str, entries: Sequence[EntryPoint]) -> Iterator[Package]:
    first, *others = sorted(entries)
    try:
        folder, wrong = _folder(first.value), "is no package in a folder"
    except (ImportError, OSError, ValueError, AttributeError) as error:
        folder, wrong = None, f"cannot be found: {error}"
    wrong = (
        f"the entry point {first.name} of the group {GROUP} names {first.value[:80]!r}, which {wrong}: "
        "name a package that holds a retinue.yaml"
    )
    yield Package(distribution, folder, "" if folder else wrong)
    if others:
        count = len(entries)
        wrong = f"there are {count} entry points in the group {GROUP}, and only {first.name} counts: keep one"
        yield Package(distribution, None, wrong)


def _folder(package: str) -> Path | None:
    """The folder of a package, as the import system finds it, without importing what is above it."""
    locations: Sequence[str] | None = None
    name = ""
    for part in package.split("."):
        if not part.isidentifier():
            return None
        name = f"{name}.{part}" if name else part
        locations = _locations(name, locations)
        if not locations:
            return None
    folders = [folder for each in locations or () if (folder := Path(each).absolute()).is_dir()]
    return next((each for each in folders if (each / "retinue.yaml").is_file()), next(iter(folders), None))


def _locations(name: str, path: Sequence[str] | None) -> Sequence[str] | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except KeyError:  # a namespace package looks for the one above, which is not imported
            spec = finder.find_spec(name.rpartition(".")[2], path)
        if spec is not None:
            return None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    return None
