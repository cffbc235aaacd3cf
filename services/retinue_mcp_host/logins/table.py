"""Who has logged in to which server: the one owner of people's tokens, which a server's connections share."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import structlog

from retinue_kit.tasks import open_task_group
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.logins.file import LoginsFile, open_logins_file
from retinue_mcp_host.logins.login import Challenge, Login, LoginKey, LoginView

log = structlog.get_logger()

MAX_WANTED = 10_000
"""Servers that want a login; beyond it the first are forgotten, and ask again."""
RETRY_S = 10.0
"""From a renewal that nobody answered to the next, while the token still holds."""


class Refused(NamedTuple):
    """The authorization server renews a login no more."""

    knows_client: bool = True
    """Whether the host can log in anew as the same client."""


class Unanswered(NamedTuple):
    """A login could not be renewed now, which may pass."""

    why: str


Renewal = Login | Refused | Unanswered
Renew = Callable[[Login], Awaitable[Renewal]]
"""Asks for new tokens."""


class Logins:
    """The table of logins, and of servers that want one."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        changed: Changes,
        file: LoginsFile | None,
        kept: Iterable[tuple[LoginKey, Login]],
    ) -> None:
        self._tasks = tasks
        self._changed = changed
        self._file = file
        self._held: dict[LoginKey, Login] = dict(kept)
        self._spent: dict[LoginKey, Login] = {}
        """Logins that hold no more, for their clients."""
        self._wanted: dict[LoginKey, Challenge] = {}
        self._renewing: dict[LoginKey, asyncio.Task[Renewal]] = {}
        self._retry_at: dict[LoginKey, float] = {}
        self._saving = asyncio.Lock()

    def find(self, key: LoginKey) -> Login | None:
        """The login; None where nobody has logged in."""
        return self._held.get(key)

    def before(self, key: LoginKey) -> Login | None:
        """The login that stands, or the last that did; None where the next begins anew."""
        return self._held.get(key) or self._spent.get(key)

    def wanted(self, key: LoginKey) -> Challenge | None:
        """With what the server asked for a login; None where it has not."""
        return self._wanted.get(key)

    def view(self, key: LoginKey) -> LoginView:
        """How it stands."""
        login, challenge = self._held.get(key), self._wanted.get(key)
        if challenge is not None:
            return LoginView("required", login, challenge.missing_scopes)
        return LoginView("logged_in" if login is not None else "logged_out", login, "")

    def want(self, key: LoginKey, challenge: Challenge) -> None:
        """Note that the server asks for a login."""
        if self._wanted.get(key) == challenge:
            return
        if len(self._wanted) >= MAX_WANTED:
            del self._wanted[next(iter(self._wanted))]
        self._wanted[key] = challenge
        log.info("a server wants a login", server=key.server, missing_scopes=challenge.missing_scopes)
        self._changed.tell(key.namespace, key.server)

    async def put(self, key: LoginKey, login: Login) -> None:
        """Note that somebody has logged in; logins for other configs of the server are forgotten."""
        self._forget(key.namespace, key.server)
        self._held[key] = login
        await self._save()
        self._changed.tell(key.namespace, key.server)

    async def drop(self, namespace: str, server: str) -> list[tuple[LoginKey, Login]]:
        """Forget the logins to a server, and return them."""
        dropped = self._forget(namespace, server)
        await self._save()
        self._changed.tell(namespace, server)
        return dropped

    def _forget(self, namespace: str, server: str) -> list[tuple[LoginKey, Login]]:
        for key in [key for key in self._wanted if key[:2] == (namespace, server)]:
            del self._wanted[key]
        for key in [key for key in self._spent if key[:2] == (namespace, server)]:
            del self._spent[key]
        for key in [key for key in self._retry_at if key[:2] == (namespace, server)]:
            del self._retry_at[key]
        keys = [key for key in self._held if key[:2] == (namespace, server)]
        return [(key, self._held.pop(key)) for key in keys]

    async def renewed(self, key: LoginKey, refused: str, renew: Renew) -> Renewal:
        """The login in place of one whose access token was refused or is about to expire.

        However many ask at the same time, one request is made; it goes on when they are cancelled, for a
        refresh token counts once.
        """
        login = self._held.get(key)
        if login is None or (login.access_token == refused and not login.refresh_token):
            return Refused()
        if login.access_token != refused:
            return login
        task = self._renewing.get(key)
        if task is None:
            if time.time() < self._retry_at.get(key, 0):
                return Unanswered("it did not answer a moment ago")
            task = self._tasks.create_task(self._renew(key, login, renew), name=f"renew {key.server}")
            self._renewing[key] = task
        return await asyncio.shield(task)

    async def _renew(self, key: LoginKey, login: Login, renew: Renew) -> Renewal:
        try:
            renewal = await _asked(renew, login)
            self._retry_at.pop(key, None)
            if isinstance(renewal, Unanswered):
                self._retry_at[key] = time.time() + RETRY_S
            elif self._held.get(key) is login:
                if isinstance(renewal, Login):
                    self._held[key] = renewal
                else:
                    del self._held[key]
                    if renewal.knows_client:
                        self._spent[key] = login
                await self._save()
                self._changed.tell(key.namespace, key.server)
            # Else somebody has logged in or out meanwhile.
            return renewal
        finally:
            del self._renewing[key]

    async def _save(self) -> None:
        if self._file is None:
            return
        async with self._saving:
            try:
                await asyncio.to_thread(self._file.save, list(self._held.items()))
            except OSError as error:
                log.warning("logins cannot be kept: they last until the host stops", error=str(error))


async def _asked(renew: Renew, login: Login) -> Renewal:
    try:
        return await renew(login)
    except Exception:
        # The other logins' tasks are its siblings.
        log.exception("a login cannot be renewed, by a bug")
        return Unanswered("by a bug, which the host's log has")


@asynccontextmanager
async def open_logins(changed: Changes, path: Path | None) -> AsyncIterator[Logins]:
    """Open the table, with the logins that a file keeps, where one is named.

    Leaving waits for renewals under way: what they got would be lost. Raises ValueError, OSError.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_logins_file(path)) if path is not None else None
        kept = file.load() if file is not None else []
        async with open_task_group() as tasks:
            yield Logins(tasks, changed, file, kept)
