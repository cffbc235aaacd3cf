"""Watches the folders of the files, and has the files loaded again when something changes there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import structlog
from watchfiles import Change, awatch

from retinue.errors import RetinueError
from retinue_kit.tasks import open_task_group
from retinue_registry.files.anchors import Roots
from retinue_registry.files.folders import folders_to_watch
from retinue_registry.files.layers import Layers
from retinue_registry.loading.loading import Loading

TICK_S = 1.0
"""How often files are looked at where they cannot be watched, and once after a watch has begun."""
QUIET_MS = 100
"""A storm of changes is over when nothing more has come for so long."""
STORM_MS = 1000
"""The longest that a storm is waited for."""
MAX_FAILURES = 5
"""Folders that went between being found and being watched, in a row."""

_PASSING = (".db", ".db-wal", ".db-shm", ".db-journal", ".lock", ".log", ".pyc", ".swp", ".swx", "~")
"""Ends of names that change all the time and are no files of components."""

log = structlog.get_logger()


class FileWatch:
    """Loads the files when they change, for as long as `run` runs."""

    def __init__(self, loading: Loading, roots: Roots, layers: Layers, *, poll: bool) -> None:
        self._loading = loading
        self._roots = roots
        self._layers = layers
        self._poll = poll
        self._failed = ""
        """Why the last load came to nothing; empty where it did not."""

    async def run(self) -> None:
        """Watch until it is cancelled. Where that is not possible, look every second."""
        failures = 0
        while not self._poll:
            try:
                await self._watch()
                failures = 0
            except (OSError, RuntimeError, ExceptionGroup) as error:
                # A folder that is gone is not there either when folders are looked for the next time.
                failures += 1
                if failures < MAX_FAILURES and isinstance(error, FileNotFoundError):
                    continue
                log.warning(
                    "files cannot be watched, they are looked at every second instead: where a limit is said "
                    "to be reached, raise fs.inotify.max_user_watches or fs.inotify.max_user_instances; "
                    "RETINUE_WATCH_FILES_POLL=true silences this",
                    error=str(error),
                )
                break
        while True:
            await asyncio.sleep(TICK_S)
            await self._load()

    async def _watch(self) -> None:
        """Watch the folders of now, until others count. Raises OSError, RuntimeError, or a group with one."""
        folders = await asyncio.to_thread(folders_to_watch, self._roots, self._layers)
        log.debug("files are watched", folders=len(folders))
        unseen = True
        async with aclosing(
            awatch(
                *folders,
                watch_filter=_counts,
                debounce=STORM_MS,
                step=QUIET_MS,
                rust_timeout=int(TICK_S * 1000),
                yield_on_timeout=True,
                force_polling=False,
                recursive=False,
                # It would pass over every error, the limits included.
                ignore_permission_denied=False,
            )
        ) as batches:
            async for changes in batches:
                if not (changes or unseen or self._failed or self._loading.is_stale()):
                    continue
                await self._load()
                unseen = False
                # A folder that was made again has the name of the one that is watched, and is another.
                if any(Path(path) in folders for _, path in changes):
                    return
                if folders != await asyncio.to_thread(folders_to_watch, self._roots, self._layers):
                    return

    async def _load(self) -> None:
        try:
            self._layers = await self._loading.load(self._roots)
        except Exception as error:  # the store may be there again in a second
            if self._failed != str(error):
                log.warning(
                    "files could not be loaded, it is tried again",
                    error=str(error),
                    exc_info=not isinstance(error, RetinueError),
                )
            self._failed = str(error) or type(error).__name__
        else:
            self._failed = ""


def _counts(_change: Change, path: str) -> bool:
    return not path.endswith(_PASSING)


@asynccontextmanager
async def open_file_watch(
    loading: Loading, roots: Roots, layers: Layers, *, poll: bool
) -> AsyncIterator[None]:
    """Watch files, which are loaded as `layers`, until the end."""
    async with open_task_group() as group:
        watching = group.create_task(FileWatch(loading, roots, layers, poll=poll).run())
        try:
            yield
        finally:
            watching.cancel()
