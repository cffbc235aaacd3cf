"""Keeps the catalog as the files say: reads them, and stores what they change."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from retinue_registry.catalog import Catalog
from retinue_registry.changes.plan import Plan, plan_change
from retinue_registry.committer import Committer, now_us
from retinue_registry.component import ApiSource, Codec, Draft, FileSource, Key, Layer, Problem, Source
from retinue_registry.files.anchors import Roots
from retinue_registry.files.layers import Layers, read_layers
from retinue_registry.files.reading import FileReader
from retinue_registry.kinds import ORDER
from retinue_registry.loading.importing import Given, Import, plan_import

log = structlog.get_logger()

_LAYERS = {layer: number for number, layer in enumerate(Layer)}


class Loading:
    """Owns what the files give now, and what is wrong with them."""

    def __init__(self, codec: Codec, catalog: Catalog, committer: Committer) -> None:
        self._codec = codec
        self._catalog = catalog
        self._committer = committer
        self._reader = FileReader()
        self._state: object = None
        self._api: frozenset[Key] = frozenset()
        """The API's components when the files were loaded."""
        self._looked_at = 0
        """The revision at which those of now were compared with them."""
        self._given: Given = {}
        self._candidates: Mapping[Key, Sequence[Draft]] = {}
        self._stored: dict[Key, tuple[Draft, int]] = {}
        self._problems: list[Problem] = []

    def problems(self, namespace: str) -> list[Problem]:
        """What is wrong with a namespace's files, and with those whose namespace is not known."""
        return [problem for problem in self._problems if problem.namespace in {None, namespace}]

    def fallback(self, key: Key) -> Draft | None:
        """What files give under a key, also where the API has replaced it; None where none does."""
        return next(iter(self._candidates.get(key, ())), None)

    def shadowed(self, namespace: str) -> list[tuple[Draft, Source]]:
        """What files give that is not in effect, each with where the one comes from that is.

        It comes in the order of kind, name and layer.
        """
        found = [
            (draft, current.source)
            for key, drafts in self._candidates.items()
            if key.namespace == namespace and (current := self._catalog.get(key))
            for draft in drafts
            if draft.source != current.source
        ]
        return sorted(found, key=shadowed_place)

    async def load(self, roots: Roots) -> Layers:
        """Read all files and store what they change; what is unchanged costs little. One caller at a time.

        Raises StoreUnavailableError, and ServiceUnavailableError where the registry is stopping.
        """
        layers = await asyncio.to_thread(read_layers, roots, self._reader)
        if layers.state != self._state or self._api_keys() != self._api:
            await self._committer.run_next(lambda: self._import(layers))
        return layers

    def is_stale(self) -> bool:
        """Whether the API's components are others, so that problems of the files may have come or gone."""
        if self._catalog.revision == self._looked_at:
            return False
        self._looked_at = self._catalog.revision
        now = self._api_keys()
        return bool(self._problems and now - self._api) or not self._api <= now

    def _api_keys(self) -> frozenset[Key]:
        return frozenset(version.key for version in self._catalog if isinstance(version.source, ApiSource))

    async def _import(self, layers: Layers) -> None:
        api = self._api_keys()
        # In a thread: ten thousand components take seconds. Nobody else writes until this has ended.
        found, plan = await asyncio.to_thread(self._plan, layers)
        await self._committer.store_plan(plan)
        self._log(layers, found, plan)
        self._state, self._api = layers.state, api
        self._given, self._candidates, self._problems = found.given, found.candidates, found.problems
        self._stored = {
            draft.key: (draft, version.revision)
            for draft in found.drafts
            if (version := self._catalog.get(draft.key))
        }

    def _plan(self, layers: Layers) -> tuple[Import, Plan]:
        found = plan_import(self._catalog, layers, self._given)
        drafts = [draft for draft in found.drafts if not self._is_stored(draft)]
        return found, plan_change(self._catalog, self._codec, drafts, found.gone, time_us=now_us(), move=True)

    def _is_stored(self, draft: Draft) -> bool:
        """Whether a draft is known to be what is stored, without looking into it."""
        known, revision = self._stored.get(draft.key, (None, 0))
        current = self._catalog.get(draft.key)
        return (
            known is draft
            and current is not None
            and (current.revision, current.source)
            == (
                revision,
                draft.source,
            )
        )

    def _log(self, layers: Layers, found: Import, plan: Plan) -> None:
        for problem in sorted(set(found.problems) - set(self._problems)):
            log.warning("problem in a file", problem=str(problem))
        for problem in sorted(set(self._problems) - set(found.problems)):
            log.info("problem in a file is gone", problem=str(problem))
        log.info(
            "files loaded",
            anchors=[str(project.anchor.path) for project in layers.projects],
            files=sum(len(project.files) for project in layers.projects),
            components=len(self._catalog),
            changes=len(plan.changes),
            problems=len(found.problems),
            revision=self._catalog.revision,
        )


def shadowed_place(shadowed: tuple[Draft, Source]) -> tuple[int, str, int, str, str]:
    """Where a draft stands among those that are shadowed."""
    draft, _ = shadowed
    source = draft.source
    if not isinstance(source, FileSource):
        raise TypeError(f"{draft.key} is no draft of a file")
    return ORDER[draft.key.kind], draft.key.name, _LAYERS[source.layer], source.distribution, source.path
