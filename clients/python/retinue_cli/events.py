"""A run's events as people read them: text as it comes, tool calls with result and time, the bill."""

from typing import TYPE_CHECKING
from urllib.parse import unquote

from retinue_cli.events_calls import CallLines
from retinue_cli.events_steps import StepLines
from retinue_cli.inputs import answered, asked
from retinue_cli.output import Output
from retinue_cli.results import (
    FAILED,
    PAUSED,
    STOP_ERROR,
    SUCCEEDED,
    bill,
    state_name,
    state_style,
    stop_words,
)
from retinue_cli.wording import clean, compact_json, count, one_line, same_json, seconds

if TYPE_CHECKING:
    from retinue.engine.v1 import event_pb2, run_pb2

_SHORT_ARGUMENTS = 300
_SHORT_RESULT = 600
_SHORT_RESULT_LINES = 8
_FIRST_CLAIM = 2
_BEFORE_BEGIN = frozenset({"run_started", "conversation_restored"})
"""An engine that claims a run after these takes up what was just accepted: nothing to tell."""
_LONGEST_LINE = 100_000

_TOOL_OUTCOMES = {2: "the tool reports an error", 3: "no answer", 4: "denied"}
_OUTCOME_SUCCEEDED = 1


class RunPrinter:
    """Prints the events of one run and remembers where it stands.

    The text of the run itself is shown as it comes; what happens in runs inside it, which may go side by
    side, in whole lines behind the place of the call that they answer.
    """

    def __init__(
        self, output: Output, *, full: bool = False, quiet: bool = False, brief: bool = False
    ) -> None:
        self._output = output
        self._brief = brief
        self._full = full
        self._quiet = quiet
        self._at_line_start = True
        self._steps = StepLines(self._say, self._line_of)
        self._calls = CallLines(self._say, self._line_of)
        self._waiting = False
        self._turn_text = False
        self._thinking = False
        self._said = False
        """Whether a model of the run itself has said anything."""
        self._before: str | None = None
        """The kind of the event before."""
        self._event_run = ""
        """The run that the event belongs to."""
        self._place = ""
        """Its place, where it is a run inside; else empty."""
        self._places: dict[str, str] = {}
        self._tools: dict[tuple[str, str], str] = {}
        self.run_id = ""
        self.session_id = ""
        self.sequence = 0
        """Of the last event seen: where a watch goes on."""
        self.result: run_pb2.RunResult | None = None
        """How the run ended, once it has."""
        self.only_structured = False
        """Quiet, and the run answers by a schema: the answer that fits is shown, no text before it."""

    @property
    def quiet(self) -> bool:
        """Whether the model's text is shown and nothing else."""
        return self._quiet

    def event(self, event: "event_pb2.RunEvent") -> None:
        """Print one event."""
        self.run_id = self.run_id or event.run_id
        self.sequence = event.sequence
        kind = event.WhichOneof("event")
        if event.run_id == self.run_id:
            if kind == "run_started":
                self.session_id = event.run_started.session_id
            elif kind == "run_finished":
                self.result = event.run_finished.result
            elif kind == "child_run_finished":
                self.result = event.child_run_finished.result
        if self._output.as_json:
            self._output.object(event)
            return
        self._stop_waiting()
        self._event_run, self._place = event.run_id, self._place_of(event)
        if self._thinking and kind != "reasoning_delta":
            self.end_line()
            self._thinking = False
        show = (
            getattr(self, f"_show_{kind}", None)
            or getattr(self._steps, kind or "", None)
            or getattr(self._calls, kind or "", None)
        )
        if show is not None:
            show(getattr(event, kind or ""))
        self._before = kind

    def _place_of(self, event: "event_pb2.RunEvent") -> str:
        if event.run_id == self.run_id:
            return ""
        if event.HasField("child_run_started"):
            self._places[event.run_id] = _as_written(event.path)
        # Who joins later has not seen it begin: all before its own turn is the place of its call.
        return self._places.get(event.run_id) or _as_written(event.path.rpartition("/turn:")[0])

    def end_line(self) -> None:
        """Leave the cursor at the start of a line."""
        self._stop_waiting()
        if not self._at_line_start:
            self._output.raw("\n")
            self._at_line_start = True

    def prompt(self, text: str) -> None:
        """Ask for a line of input."""
        self.end_line()
        self._output.raw(text, style="bold")
        self._at_line_start = False

    def entered(self) -> None:
        """Take in that the person has ended the line."""
        self._at_line_start = True

    def _say(self, *parts: tuple[str, str], indent: int = 0) -> None:
        if self._quiet:
            return
        self.end_line()
        if self._place:
            self._output.parts((f"{self._place} │ {' ' * indent}", "dim"), *parts)
        else:
            self._output.parts(*parts, indent=indent)

    def _wait(self, text: str) -> None:
        """Show what is being waited for, until the next event."""
        if self._output.animated and self._at_line_start and not self._quiet:
            self._output.raw(one_line(text, self._output.console.width - 1), style="dim")
            self._waiting = True

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._output.erase_line()
            self._waiting = False

    def _show_run_started(self, started: "event_pb2.RunStarted") -> None:
        if not self._brief:
            origin = f" · goes on from {started.origin.run_id}" if started.origin.run_id else ""
            self._say(
                (f"{self.run_id} · {started.target.name} · session {started.session_id}{origin}", "dim")
            )

    def _show_child_run_started(self, started: "event_pb2.ChildRunStarted") -> None:
        message = started.message if self._full else one_line(started.message, _SHORT_ARGUMENTS)
        self._say((f"{self._event_run} · {started.target.name} · {message}", "dim"))

    def _show_conversation_restored(self, restored: "event_pb2.ConversationRestored") -> None:
        self._say((f"({count(len(restored.messages_json), 'message')} of the run before)", "dim"))

    def _show_run_claimed(self, _: "event_pb2.RunClaimed") -> None:
        if self._before == "run_suspended":
            self._say(("(the run goes on)", "dim"))
        elif self.sequence > _FIRST_CLAIM and self._before not in _BEFORE_BEGIN:
            self._say(("(an engine has taken over the run)", "yellow"))

    def _show_run_suspended(self, suspended: "event_pb2.RunSuspended") -> None:
        if suspended.state != PAUSED:
            self._say(("(the run waits for an answer)", "yellow"))
            return
        why = f": {suspended.reason}" if suspended.reason else ""
        self._say((f"(the run is paused{why}; `retinue resume {self.run_id}` lets it go on)", "yellow"))

    def _show_turn_started(self, turn: "event_pb2.TurnStarted") -> None:
        self._turn_text = False
        self._wait(f"… {turn.llm} ({turn.model})" if turn.llm != turn.model else f"… {turn.llm}")

    def _show_text_delta(self, delta: "event_pb2.TextDelta") -> None:
        text = clean(delta.text)
        if not text or self._place or self.only_structured:
            return
        self._turn_text = self._said = True
        self._output.raw(text)
        self._at_line_start = text.endswith("\n")

    def _show_reasoning_delta(self, delta: "event_pb2.ReasoningDelta") -> None:
        if self._place or self._quiet:
            return
        if not self._full:
            self._wait("… thinks")
            return
        if not self._thinking:
            self.end_line()
            self._output.raw("(thinks) ", style="dim")
        self._thinking = True
        text = clean(delta.text)
        self._output.raw(text, style="dim")
        self._at_line_start = text.endswith("\n")

    def _show_message_completed(self, message: "event_pb2.MessageCompleted") -> None:
        if self._place:
            for line in clean(message.text).splitlines():
                self._say((line, ""))
        elif message.text and not self._turn_text and not self.only_structured:
            self._said = True
            self._output.raw(message.text)
            self._at_line_start = message.text.endswith("\n")
        self.end_line()
        if message.finish_reason == "length":
            self._say(("(cut off: the answer reached its most output tokens)", "yellow"))
        elif message.finish_reason == "content_filter":
            self._say(("(cut off: the provider's content filter stopped it)", "yellow"))

    def _show_message_discarded(self, discarded: "event_pb2.MessageDiscarded") -> None:
        why = f": {discarded.reason}" if discarded.reason else ""
        if discarded.HasField("error"):
            delay_s = discarded.delay.seconds + discarded.delay.nanos / 1e9
            when = f" in {seconds(delay_s)}" if delay_s else ""
            self._say((f"(the model failed; {discarded.next_llm} is asked{when}{why})", "yellow"))
            return
        self._say((f"(the answer so far does not count and is asked for again{why})", "yellow"))

    def _show_sampling_completed(self, sampled: "event_pb2.SamplingCompleted") -> None:
        self._say(
            (f"(the server {sampled.server} asked {sampled.llm}: {self._line_of(sampled.text)})", "dim")
        )

    def _show_context_trimmed(self, trimmed: "event_pb2.ContextTrimmed") -> None:
        left_out = count(trimmed.omitted_messages, "message")
        tokens = f"about {trimmed.tokens_after:,} tokens in place of {trimmed.tokens_before:,}"
        self._say((f"({left_out} left out from here on: {tokens})", "yellow"))

    def _show_stall_noticed(self, noticed: "event_pb2.StallNoticed") -> None:
        self._say((f"(no headway; the model is told: {self._line_of(noticed.message)})", "yellow"))

    def _show_output_rejected(self, rejected: "event_pb2.OutputRejected") -> None:
        why = self._line_of(rejected.message)
        self._say((f"(the answer does not fit the output schema and is asked for again: {why})", "yellow"))

    def _show_input_requested(self, requested: "event_pb2.InputRequested") -> None:
        request = requested.request
        self._say(("? ", "bold yellow"), (asked(request, longest=self._longest), "yellow"))
        if request.question.schema_json:
            self._say((f"as {self._line_of(request.question.schema_json)}", "dim"), indent=2)

    def _show_input_received(self, received: "event_pb2.InputReceived") -> None:
        self._say((f"({answered(received.answer, longest=self._longest)})", "yellow"))

    @property
    def _longest(self) -> int:
        return _LONGEST_LINE if self._full else _SHORT_ARGUMENTS

    def _line_of(self, text: str) -> str:
        return one_line(text, self._longest)

    def _show_tool_call_started(self, call: "event_pb2.ToolCallStarted") -> None:
        name = f"{call.server}.{call.tool}" if call.server else call.tool
        self._tools[self._event_run, call.call_id] = name
        arguments = call.arguments_json if self._full else one_line(call.arguments_json, _SHORT_ARGUMENTS)
        self._say(("→ ", "cyan"), (name, "bold cyan"), (f" {arguments}", ""))
        self._wait(f"… {name}")

    def _show_tool_call_progress(self, progress: "event_pb2.ToolCallProgress") -> None:
        share = f"{progress.progress:g}"
        if progress.HasField("total") and progress.total > 0:
            share = f"{progress.progress / progress.total:.0%}"
        name = self._tools.get((self._event_run, progress.call_id), "tool")
        text = f"{name} {share} {progress.message}".rstrip()
        if self._output.animated:
            self._wait(f"… {text}")
        else:
            self._say((text, "dim"), indent=2)

    def _show_tool_call_completed(self, done: "event_pb2.ToolCallCompleted") -> None:
        name = self._tools.get((self._event_run, done.call_id), "tool")
        took = seconds(_span(done))
        if done.outcome == _OUTCOME_SUCCEEDED:
            self._say(("← ", "green"), (name, "bold green"), (f" {took}", "dim"))
        else:
            trouble = _TOOL_OUTCOMES.get(done.outcome, "failed")
            self._say(("✗ ", "red"), (name, "bold red"), (f" {took}", "dim"), (f" {trouble}", "red"))
        text = done.text or done.structured_json or done.error.message
        for line in self._shortened(text).splitlines():
            self._say((line, "dim"), indent=2)
        for each in done.attachments:
            name = f" {each.name}" if each.name else ""
            self._say((f"[{each.mime_type}{name}, {each.size_bytes:,} bytes]", "dim"), indent=2)

    def _shortened(self, text: str) -> str:
        if self._full:
            return text
        text = compact_json(clean(text))
        lines = text[:_SHORT_RESULT].splitlines()[:_SHORT_RESULT_LINES]
        short = "\n".join(lines)
        left = len(text) - len(short)
        return f"{short}\n… {count(left, 'character')} more; --full shows all" if left > 1 else short

    def _show_run_finished(self, finished: "event_pb2.RunFinished | event_pb2.ChildRunFinished") -> None:
        result = finished.result
        if not self._quiet:
            self.end_line()
        if not self._quiet and not self._brief:
            self._output.line()
        if result.state == FAILED:
            self._quiet = False  # never silent about a failure
        self._show_structured(result)
        if self._brief and result.state == SUCCEEDED:
            self._say((bill(result), "dim"))
        else:
            self._show_end(result)

    def _show_structured(self, result: "run_pb2.RunResult") -> None:
        """Show the answer that fits the schema, where the text that was shown is not just that."""
        if self.only_structured and result.structured_json:
            self._output.raw(f"{result.structured_json}\n")
        elif result.output and not self._said and not self._place and not self.only_structured:
            # A workflow says nothing by itself.
            self._output.raw(f"{result.output}\n")
        elif not same_json(result.output, result.structured_json):
            self._say(("= ", "green"), (self._line_of(result.structured_json), ""))

    def _show_child_run_finished(self, finished: "event_pb2.ChildRunFinished") -> None:
        if self._place:
            self._show_end(finished.result)
        else:
            self._show_run_finished(finished)

    def _show_end(self, result: "run_pb2.RunResult") -> None:
        style = state_style(result.state)
        mark = {SUCCEEDED: "✓", FAILED: "✗"}.get(result.state, "■")
        if result.state == FAILED:
            stop = "" if result.stop_reason == STOP_ERROR else stop_words(result.stop_reason)
            why = f" ({stop})" if stop else ""
            self._say((f"{mark} failed{why}: ", "bold red"), (result.error.message, "red"))
            self._say((bill(result), "dim"))
            return
        name = state_name(result.state)
        why = f": {result.cancel_reason}" if result.cancel_reason else ""
        self._say((f"{mark} {name}{why}", f"bold {style}"), (f" · {bill(result)}", "dim"))


def _as_written(path: str) -> str:
    """A path with the keys of calls as the code wrote them."""
    return unquote(path) if "call:" in path else path


def _span(done: "event_pb2.ToolCallCompleted") -> float:
    return done.duration.seconds + done.duration.nanos / 1e9
