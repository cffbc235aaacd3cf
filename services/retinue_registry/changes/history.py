"""The versions of components that are kept: one, a page of them, what is said of one that is not there."""

from retinue.errors import ComponentNotFoundError, InvalidArgumentError, Violation
from retinue_registry.catalog import Catalog
from retinue_registry.component import BATCH_BYTES, Key, Version
from retinue_registry.resolve import not_found
from retinue_registry.stores.store import Store

_AT_ONCE = 50
"""Versions that are read at once: a page may be full before."""


class History:
    """Reads what components were."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    async def get(self, key: Key, version: int = 0) -> Version:
        """A component at a version, or at its current one. Raises ComponentNotFoundError."""
        current = self._catalog.get(key)
        if current and version in {0, current.version}:
            return current
        if found := await self._store.version(key, version) if version else None:
            return found
        raise await self._not_there(key, version)

    async def what_was(self, key: Key, version: int = 0, *, field: str = "component.version") -> Version:
        """As `get`; of an end it says what to do: InvalidArgumentError for the request's `field`."""
        if version:
            found = await self._store.versions(key, version + 1, 1)
            if found and found[0].version == version and found[0].deleted:
                wrong = (
                    f"version {version} of {key} is its end, when it was deleted: "
                    f"version {version - 1} is what it was"
                )
                raise InvalidArgumentError(wrong, violations=[Violation(field, wrong)])
        return await self.get(key, version)

    async def page(self, key: Key, below: int, limit: int) -> tuple[list[Version], bool]:
        """Versions below one (0: from the newest), the newest first, the ends included; whether more are.

        It ends early where they are large. Raises ComponentNotFoundError where there never was such a
        component.
        """
        result: list[Version] = []
        size = 0
        while True:
            found = await self._store.versions(key, below, min(_AT_ONCE, limit + 1))
            for version in found:
                if len(result) == limit or size >= BATCH_BYTES:
                    return result, True
                result.append(version)
                size += len(version.spec)
            if len(found) < min(_AT_ONCE, limit + 1):
                if not result and not below:
                    raise not_found(self._catalog, key)
                return result, False
            below = found[-1].version

    async def _not_there(self, key: Key, version: int) -> ComponentNotFoundError:
        last = self._catalog.last(key)
        if last is None:
            return not_found(self._catalog, key)
        oldest = await self._oldest(key, last.version)
        kept = f"{oldest} to {last.version}" if oldest < last.version else f"{last.version} alone"
        what = f"the {key.kind} {key.name!r}"
        message = f"{what} has no version {version}: kept are {kept}"
        if not version:
            back = f"roll back to version {last.version - 1} to have it again"
            message = f"{what} was deleted: {back}" if oldest < last.version else f"{what} was deleted"
        return ComponentNotFoundError(
            message,
            namespace=key.namespace,
            kind=key.kind,
            name=key.name,
            version=version or None,
            oldest_version=oldest,
            newest_version=last.version,
        )

    async def _oldest(self, key: Key, newest: int) -> int:
        """The oldest version that is kept, by halving: versions are removed from the oldest on."""
        low, high = 1, newest
        while low < high:
            middle = (low + high + 1) // 2
            if await self._store.versions(key, middle, 1):
                high = middle - 1
            else:
                low = middle
        return low
