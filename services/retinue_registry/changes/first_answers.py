"""How the answer of a change is kept under its request_id, and given again."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retinue.errors import RequestIdReusedError, RevisionCompactedError
from retinue_registry.changes.plan import Outcome, Step
from retinue_registry.changes.removing import Lack
from retinue_registry.component import ApiSource, Key, Version
from retinue_registry.stores.store import RequestRecord, Store

_REPLACEMENT = "replacement"
_LACK = "lack"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a change did."""

    steps: Sequence[Step]
    """For each component that was named, in that order; then for those that were pruned."""
    revision: int
    """The registry's after the change."""
    replacements: Sequence[Version] = ()
    """What files gave in the place of what was deleted."""
    lacks: Sequence[Lack] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What tells one request from another. Without a request_id nothing is kept."""

    namespace: str
    request_id: str = ""
    digest: bytes = b""

    def record(self, answer: Answer, time_us: int) -> RequestRecord | None:
        """What is kept of the answer."""
        if not self.request_id:
            return None
        outcomes = [
            *((step.version.revision, step.outcome.value) for step in answer.steps),
            *((version.revision, _REPLACEMENT) for version in answer.replacements),
            *((0, _lack_text(lack)) for lack in answer.lacks),
        ]
        return RequestRecord(self.namespace, self.request_id, self.digest, outcomes, answer.revision, time_us)

    async def first_answer(self, store: Store) -> Answer | None:
        """The answer that this request got before; None where it is new.

        Raises RequestIdReusedError where its id was another request's, RevisionCompactedError where what it
        was answered is not kept any more.
        """
        known = await store.request(self.namespace, self.request_id) if self.request_id else None
        if known is None:
            return None
        if known.digest != self.digest:
            raise RequestIdReusedError(
                f"the request_id {self.request_id!r} was used before with another request: take a new one",
                request_id=self.request_id,
            )
        stored = [(revision, what) for revision, what in known.outcomes if revision]
        try:
            versions = await store.at([revision for revision, _ in stored])
        except RevisionCompactedError:
            raise RevisionCompactedError(
                f"this request was done, at revision {known.revision}, and what it was answered is not kept "
                "any more: get the components as they are now",
                request_id=self.request_id,
                revision=known.revision,
            ) from None
        pairs = list(zip(versions, (what for _, what in stored), strict=True))
        return Answer(
            [await _step(store, version, Outcome(what)) for version, what in pairs if what != _REPLACEMENT],
            known.revision,
            [version for version, what in pairs if what == _REPLACEMENT],
            list(_lacks(known)),
        )


async def _step(store: Store, version: Version, outcome: Outcome) -> Step:
    if outcome is Outcome.DELETED:  # a file that gives the same owns that version by now
        return Step(dataclasses.replace(version, source=ApiSource()), outcome)
    updated = outcome is Outcome.UPDATED
    return Step(version, outcome, await store.version(version.key, version.version - 1) if updated else None)


def _lack_text(lack: Lack) -> str:
    return f"{_LACK} {lack.holder} {lack.field} {lack.missing}"


def _lacks(known: RequestRecord) -> Iterator[Lack]:
    for _, text in known.outcomes:
        what, *rest = text.split(" ")
        if what == _LACK:
            holder, field, missing = rest
            yield Lack(
                Key(known.namespace, *holder.split("/")), field, Key(known.namespace, *missing.split("/"))
            )
