"""A watch that is not for all events: by type, by path, by the run inside the tree."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from retinue.engine.v1 import event_pb2, service_pb2
from retinue.errors import InvalidArgumentError, Violation

EVENT_TYPES = tuple(field.name for field in event_pb2.RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a watcher asks for."""

    types: Collection[str] = ()
    """By their names in RunEvent; all where there is none."""
    path: str = ""
    """This one and what is below it; all where it is empty."""
    last_of: str = ""
    """The child whose end ends the watch; empty: the root's."""
    last: int | None = None
    """Where the watch of a child that has ended is over, whatever follows in its tree."""

    @property
    def empty(self) -> bool:
        """Whether every event is asked for."""
        return not self.types and not self.path

    def takes(self, event: event_pb2.RunEvent) -> bool:
        """Whether an event is asked for."""
        if self.types and event.WhichOneof("event") not in self.types:
            return False
        return not self.path or event.path == self.path or event.path.startswith(f"{self.path}/")


def check_types(types: Collection[str]) -> None:
    """Raise InvalidArgumentError for a name that no event has."""
    unknown = [each for each in types if each not in EVENT_TYPES]
    if unknown:
        raise InvalidArgumentError(
            "event_types has names that no event has",
            violations=[
                Violation("event_types", f"{name!r} is none of: {', '.join(EVENT_TYPES)}") for name in unknown
            ],
        )


async def filtered(stream: AsyncIterator[bytes], which: EventFilter) -> AsyncIterator[bytes]:
    """Yield of a whole story what is asked for.

    What is left out moves `through_sequence` on all the same.
    """
    async for data in stream:
        response = service_pb2.StreamRunResponse.FromString(data)
        kept = [event for event in response.events if which.takes(event)]
        over = any(
            event.run_id == which.last_of and event.HasField("child_run_finished")
            for event in response.events
        ) or (which.last is not None and response.through_sequence >= which.last)
        rest = service_pb2.StreamRunResponse(events=kept, through_sequence=response.through_sequence)
        yield rest.SerializeToString()
        if over:
            return
