"""What a report tells of things that went otherwise than they should have, and in which words."""

from dataclasses import dataclass

from retinue.engine.v1 import event_pb2, report_pb2, run_pb2
from retinue.engine.v1.report_pb2 import (
    REPORT_FINDING_KIND_DEGRADATION,
    REPORT_FINDING_KIND_PARTIAL_SUCCESS,
    REPORT_FINDING_KIND_RECOVERY,
    REPORT_FINDING_KIND_RETRY,
    REPORT_FINDING_KIND_UNSPECIFIED,
    ReportFinding,
)

MAX_FINDINGS = 1000
"""The first ones are told; of the others, how many there are."""

MAX_WORDS = 400
"""Most characters of what somebody else said in a finding."""

_CUT_OFF = {
    "length": "the answer was cut off: it reached its most output tokens",
    "content_filter": "the answer was cut off by the provider's content filter",
}
_STALLS = {
    event_pb2.STALL_REPEATED_CALLS: "it asks for the same calls again and again",
    event_pb2.STALL_EMPTY_ANSWER: "it answers nothing",
}


@dataclass(slots=True)
class Asking:
    """An answer that a model is asked for, over all tries."""

    path: str
    first_llm: str
    llm: str
    """Of the last try, as `model`."""
    model: str
    answered: bool = False


@dataclass(slots=True)
class Call:
    """A tool call that has not ended."""

    server: str = ""
    """Empty for a tool of the engine's own, and for one that nobody has."""
    tool: str = ""
    started: bool = False
    """Whether it was sent on its way."""
    interrupted: bool = False
    """Whether it was under way when an engine was lost."""
    child: str = ""
    """Id of the run that answers it; empty where none does."""
    told: bool = False
    """Whether a finding tells already why it failed."""

    @property
    def name(self) -> str:
        """As people know it: `time/now`."""
        return f"{self.server}/{self.tool}" if self.server else self.tool


class Findings:
    """Collects findings, in the order of the events that tell of them."""

    def __init__(self) -> None:
        self._found: list[ReportFinding] = []
        self._left_out = 0
        self._unpriced: set[tuple[str, str]] = set()

    def found(self) -> list[ReportFinding]:
        """All findings; where there are too many, the last one says how many are left out."""
        if not self._left_out:
            return self._found
        message = f"{self._left_out} more are left out"
        return [*self._found, ReportFinding(kind=REPORT_FINDING_KIND_UNSPECIFIED, message=message)]

    def _add(
        self, kind: report_pb2.ReportFindingKind.ValueType, event: event_pb2.RunEvent, message: str
    ) -> None:
        if len(self._found) == MAX_FINDINGS:
            self._left_out += 1
            return
        self._found.append(
            ReportFinding(kind=kind, path=event.path, sequence=event.sequence, message=message)
        )

    def taken_over(self, event: event_pb2.RunEvent) -> None:
        """An engine was lost, and another one took the run over."""
        self._add(
            REPORT_FINDING_KIND_RECOVERY, event, "an engine took over the run, whose engine before was lost"
        )

    def discarded(self, event: event_pb2.RunEvent, llm: str) -> None:
        """What a model had written does not count."""
        discarded = event.message_discarded
        if discarded.HasField("error"):
            why = _words(discarded.error.message or discarded.reason)
            follows = discarded.next_llm or llm
            self._add(REPORT_FINDING_KIND_RETRY, event, f"{llm} failed, {follows} was asked next: {why}")
        else:
            self._add(
                REPORT_FINDING_KIND_RECOVERY,
                event,
                f"an answer of {llm} was cut off and asked for again: {_words(discarded.reason)}",
            )

    def answered(self, event: event_pb2.RunEvent, asking: Asking) -> None:
        """A model has answered."""
        message = event.message_completed
        if asking.llm != asking.first_llm:
            self._add(
                REPORT_FINDING_KIND_DEGRADATION,
                event,
                f"{asking.llm} answered in place of {asking.first_llm}",
            )
        if message.finish_reason in _CUT_OFF:
            self._add(REPORT_FINDING_KIND_DEGRADATION, event, _CUT_OFF[message.finish_reason])
        if message.cost.unknown and (asking.llm, asking.model) not in self._unpriced:
            # Once for each model: it is so for all its answers.
            self._unpriced.add((asking.llm, asking.model))
            what = "its price" if message.HasField("usage") else "how many tokens it used"
            self._add(
                REPORT_FINDING_KIND_DEGRADATION,
                event,
                f"the cost of {asking.llm} ({asking.model}) is not known: nobody says {what}",
            )

    def trimmed(self, event: event_pb2.RunEvent) -> None:
        """A model is sent less of the conversation."""
        trimmed = event.context_trimmed
        self._add(
            REPORT_FINDING_KIND_DEGRADATION,
            event,
            f"{trimmed.omitted_messages} messages of the conversation were left out: about "
            f"{trimmed.tokens_after} tokens in place of {trimmed.tokens_before}",
        )

    def stalled(self, event: event_pb2.RunEvent) -> None:
        """A model was told that it makes no headway."""
        stall = _STALLS.get(event.stall_noticed.stall, "it makes no headway")
        self._add(REPORT_FINDING_KIND_RECOVERY, event, f"the model was told that {stall}")

    def rejected(self, event: event_pb2.RunEvent) -> None:
        """An answer did not fit the output schema."""
        why = _words(event.output_rejected.message)
        self._add(
            REPORT_FINDING_KIND_RECOVERY,
            event,
            f"an answer did not fit the output schema, asked again: {why}",
        )

    def call_ended(self, event: event_pb2.RunEvent, call: Call) -> None:
        """A tool call has ended, however it did."""
        completed = event.tool_call_completed
        if call.interrupted and completed.outcome != event_pb2.TOOL_CALL_OUTCOME_DENIED:
            self.repeated(event, call)
        if call.told or completed.outcome == event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED:
            return
        why = _words(completed.error.message or completed.text)
        how = "was denied" if completed.outcome == event_pb2.TOOL_CALL_OUTCOME_DENIED else "failed"
        self._add(REPORT_FINDING_KIND_PARTIAL_SUCCESS, event, f"{call.name} {how}: {why}")

    def repeated(self, event: event_pb2.RunEvent, call: Call) -> None:
        """A call that was under way was made again. One that the engine answers itself just goes on."""
        if call.server and not call.child:
            self._add(
                REPORT_FINDING_KIND_RECOVERY,
                event,
                f"{call.name} was called again: an engine stopped while it was under way",
            )

    def child_failed(self, event: event_pb2.RunEvent, agent: str, result: run_pb2.RunResult) -> None:
        """A run inside failed."""
        why = _words(result.error.message)
        self._add(REPORT_FINDING_KIND_PARTIAL_SUCCESS, event, f"the run of {agent} failed: {why}")


def _words(text: str) -> str:
    line = " ".join(text[: 4 * MAX_WORDS].split())
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"
