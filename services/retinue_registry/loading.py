"""Keeps the catalog as the files say: reads them, and stores what they change."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from retinue_registry.catalog import Catalog
from retinue_registry.committer import Committer, now_us
from retinue_registry.component import ApiSource, Codec, Problem
from retinue_registry.files.project import Project, load_project
from retinue_registry.importing import plan_import
from retinue_registry.plan import plan_change

log = structlog.get_logger()


class Loading:
    """Owns what is wrong with the files now."""

    def __init__(self, codec: Codec, catalog: Catalog, committer: Committer) -> None:
        self._codec = codec
        self._catalog = catalog
        self._committer = committer
        self._problems: list[Problem] = []

    def problems(self, namespace: str) -> list[Problem]:
        """What is wrong with a namespace's files, and with those whose namespace is not known."""
        return [problem for problem in self._problems if problem.namespace in {None, namespace}]

    async def load(self, anchor: Path | None) -> Sequence[Problem]:
        """Read a project's files and store what they change; return what is wrong with them."""

        async def work() -> Sequence[Problem]:
            project = None
            if anchor:
                api = [version.key for version in self._catalog if isinstance(version.source, ApiSource)]
                project = await asyncio.to_thread(load_project, anchor, elsewhere=api)
            return await self._import(project)

        return await self._committer.run_next(work)

    async def _import(self, project: Project | None) -> Sequence[Problem]:
        found = plan_import(self._catalog, project)
        plan = plan_change(self._catalog, self._codec, found.drafts, found.gone, time_us=now_us(), move=True)
        await self._committer.store_plan(plan)
        for problem in set(found.problems) - set(self._problems):
            log.warning("problem in a project's file", problem=str(problem))
        for draft in found.shadowed:
            log.info(
                "a file's component is shadowed by the API's", component=str(draft.key), source=draft.source
            )
        self._problems = found.problems
        log.info(
            "project loaded",
            root=str(project.root) if project else None,
            files=len(project.files) if project else 0,
            components=len(self._catalog),
            changes=len(plan.changes),
            problems=len(found.problems),
            revision=self._catalog.revision,
        )
        return found.problems
