"""Finds components, and all that they need."""

from collections.abc import Iterator

from retinue.errors import ComponentNotFoundError, InvalidArgumentError, ReferenceNotFoundError, Violation
from retinue_registry.catalog import Catalog
from retinue_registry.component import Key, Version
from retinue_registry.kinds import KINDS, Reference
from retinue_registry.nearest import nearest
from retinue_registry.references import explain


def not_found(catalog: Catalog, key: Key) -> ComponentNotFoundError:
    """The error that says that a component does not exist."""
    namespace, kind, name = key
    where = "" if namespace == "default" else f" in the namespace {namespace}"
    near = nearest(name, catalog.names(namespace, kind))
    return ComponentNotFoundError(
        explain(key, near) + where + ("" if near else f": `retinue get {kind}` lists them"),
        namespace=namespace,
        kind=kind,
        name=name,
        nearest=", ".join(near) or None,
    )


def find_runnable(catalog: Catalog, namespace: str, name: str) -> Version:
    """The one component of a name that can be run. Raises ComponentNotFoundError, InvalidArgumentError."""
    kinds = [kind.name for kind in KINDS.values() if kind.runnable]
    found = [version for kind in kinds if (version := catalog.get(Key(namespace, kind, name)))]
    if len(found) == 1:
        return found[0]
    if found:
        candidates = " and ".join(str(version.key) for version in found)
        raise InvalidArgumentError(
            f"{name!r} could be {candidates}: set the kind",
            violations=[Violation("component.kind", f"must be set: there are {candidates}")],
        )
    names = sorted({each for kind in kinds for each in catalog.names(namespace, kind)})
    near = nearest(name, names)
    where = "" if namespace == "default" else f" in the namespace {namespace}"
    raise ComponentNotFoundError(
        explain(Key(namespace, "agent or workflow", name), near)
        + where
        + ("" if near else ": `retinue get` lists what there is"),
        namespace=namespace,
        kind=",".join(kinds),
        name=name,
        nearest=", ".join(near) or None,
    )


def closure(catalog: Catalog, root: Version, llm: str = "") -> list[Version]:
    """All that a component needs, directly or not, each once, without itself; `llm` replaces its own.

    Raises ReferenceNotFoundError, and ComponentNotFoundError for an `llm` that does not exist.
    """
    if llm and "llm" not in KINDS[root.key.kind].refers:
        raise InvalidArgumentError(
            f"the {root.key.kind} {root.key.name!r} has no llm that could be replaced",
            violations=[Violation("llm", f"must be empty for the kind {root.key.kind}")],
        )
    found: dict[Key, Version] = {}
    waiting = [root]
    while waiting:
        holder = waiting.pop()
        for reference in _references(catalog, holder, llm if holder is root else ""):
            key = Key(root.key.namespace, reference.kind, reference.name)
            if key == root.key or key in found:
                continue
            version = catalog.get(key)
            if version is None:
                if llm and reference.place == ("llm",) and holder is root:
                    raise not_found(catalog, key)
                raise ReferenceNotFoundError(
                    f"the {holder.key.kind} {holder.key.name!r} needs what is not there: "
                    + explain(key, catalog.names(key.namespace, key.kind)),
                    kind=holder.key.kind,
                    name=holder.key.name,
                    missing=key,
                )
            found[key] = version
            waiting.append(version)
    return list(found.values())


def _references(catalog: Catalog, version: Version, llm: str) -> Iterator[Reference]:
    for reference in catalog.references(version):
        yield reference._replace(name=llm) if llm and reference.place == ("llm",) else reference
