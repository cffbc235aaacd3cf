"""Migrates, checks and prunes the store that the settings name, without serving it."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from retinue.errors import RetinueError
from retinue_engine.convert import now_us
from retinue_engine.runs.retention import Retention
from retinue_engine.settings import EngineSettings
from retinue_engine.stores.look import StoreLook, open_look
from retinue_engine.stores.opening import open_store
from retinue_kit.logs import configure_logs

USAGE = 2
_US_OF_DAY = 24 * 60 * 60 * 1_000_000
_MOST_LISTED = 1_000_000


class Done(NamedTuple):
    """What came of it."""

    lines: list[str]
    """For people."""
    facts: Mapping[str, Any]
    """The same for programs."""
    status: int = 0
    """The exit status."""


class MaintenanceError(Exception):
    """It cannot be done; the text says what to do instead."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


async def migrate(settings: EngineSettings) -> Done:
    """Bring the store to the newest version."""
    async with open_look(settings) as look:
        name, before, newest = look.name, look.version, look.newest
        _check_is_there(look)
    if before < newest:
        async with open_store(settings):
            pass
    facts = {"store": name, "from_version": before, "to_version": newest}
    how = (
        f"migrated from version {before} to {newest}"
        if before < newest
        else f"is at version {newest} already"
    )
    return Done([f"{name}: {how}"], facts)


async def check(settings: EngineSettings) -> Done:
    """Look for what does not fit together; an engine may be at work meanwhile."""
    async with open_look(settings) as look:
        _check_is_newest(look)
        problems = await look.problems()
    lines = problems or [f"{look.name}: no problems"]
    return Done(lines, {"store": look.name, "problems": problems}, status=1 if problems else 0)


async def prune(settings: EngineSettings, *, days: float | None, keep: int | None, dry_run: bool) -> Done:
    """Delete sessions, with all that belongs to them, that were not used for days or are too many.

    Without a limit it is that of the settings.
    """
    if days is None and keep is None:
        days, keep = settings.retain_days, settings.retain_sessions
    if days is None and keep is None:
        raise MaintenanceError("say what to keep: --days N, --keep N, or RETINUE_RETAIN_DAYS", USAGE)
    async with open_look(settings) as look:
        _check_is_newest(look)
    async with open_store(settings) as store:
        if not dry_run:
            deleted = await Retention(store, days=days, sessions=keep).sweep()
            return Done([f"{look.name}: deleted {_sessions(deleted)}"], {"deleted_sessions": deleted})
        found: list[tuple[str, str]] = []
        if days is not None:
            found += await store.old_sessions(now_us() - int(days * _US_OF_DAY), _MOST_LISTED)
        if keep is not None:
            found += await store.surplus_sessions(keep, _MOST_LISTED)
    would_go = sorted(set(found))
    lines = [f"{namespace}  {session_id}" for namespace, session_id in would_go]
    facts = [{"namespace": namespace, "session_id": session_id} for namespace, session_id in would_go]
    return Done([*lines, f"{look.name}: would delete {_sessions(len(would_go))}"], {"sessions": facts})


def _check_is_there(look: StoreLook) -> None:
    if look.version == 0:
        raise MaintenanceError(
            f"{look.name} holds no store: RETINUE_STORE and RETINUE_DATA_DIR say where it is, and an engine "
            "makes one where it starts"
        )
    if look.version > look.newest:
        raise MaintenanceError(
            f"{look.name} has version {look.version}, and this Retinue knows versions up to {look.newest}: "
            "use one as new as what wrote it"
        )


def _check_is_newest(look: StoreLook) -> None:
    _check_is_there(look)
    if look.version < look.newest:
        raise MaintenanceError(
            f"{look.name} has version {look.version}, and this Retinue works with {look.newest}: stop all "
            "engines and migrate it first (`retinue store migrate`)"
        )


def _sessions(number: int) -> str:
    return f"{number:,} session{'' if number == 1 else 's'}"


def carry_out(action: str, *, as_json: bool, **options: Any) -> int:
    """Do `migrate`, `check` or `prune`, print what came of it, and return the exit status."""
    # Whatever is under way may be cut off at any moment, as an engine may.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        settings = EngineSettings()
    except ValidationError as error:
        return _fail("; ".join(_words(each) for each in error.errors()), USAGE, as_json)
    configure_logs(settings.service, "warning", settings.log_format)
    actions: dict[str, Any] = {"migrate": migrate, "check": check, "prune": prune}
    work: Coroutine[Any, Any, Done] = actions[action](settings, **options)
    try:
        done = asyncio.run(work)
    except MaintenanceError as error:
        return _fail(str(error), error.status, as_json)
    except (RetinueError, OSError, ValueError) as error:
        return _fail(str(error), 1, as_json)
    if as_json:
        sys.stdout.write(json.dumps(done.facts, ensure_ascii=False) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in done.lines)
    return done.status


def _words(error: Any) -> str:
    """What is wrong with a setting: `RETINUE_STORE: ...`."""
    place = "".join(str(part) for part in error["loc"][:1])
    variable = place if place.isupper() else f"RETINUE_{place.upper()}"
    return f"{variable + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}"


def _fail(message: str, status: int, as_json: bool) -> int:
    said = json.dumps({"error": {"message": message}}, ensure_ascii=False) if as_json else f"error: {message}"
    sys.stderr.write(said + "\n")
    return status
