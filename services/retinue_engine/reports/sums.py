"""The sums of a report: everything together, by agent, by model, by tool and by turn."""

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.report_pb2 import AgentReport, ModelReport, ReportTotals, StepReport, ToolReport
from retinue_engine.agent.spent import add_cost, add_usage
from retinue_engine.outcome import set_seconds
from retinue_engine.reports.findings import Asking, Call


class _Average:
    """The mean of durations."""

    def __init__(self) -> None:
        self._nanos = 0
        self._count = 0

    def add(self, duration: Duration) -> None:
        self._nanos += duration.ToNanoseconds()
        self._count += 1

    def put(self, duration: Duration) -> None:
        if self._count:
            set_seconds(duration, self._nanos / self._count / 1e9)


class Sums:
    """Adds up what agent runs used. What happens in a child counts once: for its agent and in the totals."""

    def __init__(self) -> None:
        self._totals = ReportTotals()
        self._llm_latency, self._tool_latency = _Average(), _Average()
        self._agents: dict[str, AgentReport] = {}
        self._models: dict[tuple[str, str], tuple[ModelReport, _Average]] = {}
        self._failures: dict[tuple[str, str], int] = {}
        """By llm and by the model that was asked for: a failed call tells no other name."""
        self._answers_as: dict[tuple[str, str], str] = {}
        """What a model that was asked for calls itself."""
        self._tools: dict[tuple[str, str], tuple[ToolReport, _Average]] = {}
        self._steps: dict[str, tuple[StepReport, int]] = {}
        """By path, with the time of their beginning."""

    def enter(self, agent: str, *, child: bool) -> None:
        """A run has begun."""
        self._agents.setdefault(agent, AgentReport(agent=agent)).runs += 1
        self._totals.child_runs += child

    def step(self, event: event_pb2.RunEvent, path: str, agent: str) -> StepReport:
        """A turn in which something happened: it has lasted up to here."""
        now_us = event.time.ToMicroseconds()
        step, begin_us = self._steps.setdefault(path, (StepReport(path=path, agent=agent), now_us))
        set_seconds(step.duration, (now_us - begin_us) / 1e6)
        return step

    def answered(self, message: event_pb2.MessageCompleted, asking: Asking, step: StepReport) -> None:
        """A model has answered."""
        name = message.model or asking.model
        self._answers_as[asking.llm, asking.model] = name
        self._count(message, asking.llm, name, step)

    def sampled(self, message: event_pb2.SamplingCompleted, step: StepReport) -> None:
        """A model has answered a server that asked for it in a call."""
        self._count(message, message.llm, message.model, step)

    def _count(
        self,
        message: event_pb2.MessageCompleted | event_pb2.SamplingCompleted,
        llm: str,
        name: str,
        step: StepReport,
    ) -> None:
        model, latency = self._models.setdefault((llm, name), (ModelReport(llm=llm, model=name), _Average()))
        agent = self._agents[step.agent]
        model.calls += 1
        agent.turns += 1
        self._totals.turns += 1
        for each in (self._totals, agent, model, step):
            add_usage(each.usage, message.usage)
            add_cost(each.cost, message.cost)
        for average in (self._llm_latency, latency):
            average.add(message.duration)

    def model_failed(self, asking: Asking, *, again: bool) -> None:
        """A model did not answer; whether one is asked again."""
        key = (asking.llm, asking.model)
        self._failures[key] = self._failures.get(key, 0) + 1
        self._totals.retries += again

    def call_ended(self, completed: event_pb2.ToolCallCompleted, call: Call, step: StepReport) -> None:
        """A tool call has ended, however it did."""
        tool, latency = self._tools.setdefault(
            (call.server, call.tool), (ToolReport(server=call.server, tool=call.tool), _Average())
        )
        tool.calls += 1
        self._totals.tool_calls += 1
        self._agents[step.agent].tool_calls += 1
        step.tool_calls += 1
        if completed.outcome != event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED:
            tool.failures += 1
            self._totals.failed_tool_calls += 1
        if completed.outcome != event_pb2.TOOL_CALL_OUTCOME_DENIED:
            # A call that was denied tells how long a person thought, not how fast a tool is.
            for average in (self._tool_latency, latency):
                average.add(completed.duration)

    def totals(self) -> ReportTotals:
        """Everything together, without the times of the run as a whole."""
        totals = ReportTotals()
        totals.CopyFrom(self._totals)
        self._llm_latency.put(totals.average_llm_latency)
        self._tool_latency.put(totals.average_tool_latency)
        return totals

    def agents(self) -> list[AgentReport]:
        """By agent, the dearest first."""
        return sorted(self._agents.values(), key=_dearest_first)

    def models(self) -> list[ModelReport]:
        """By model, the dearest first."""
        reports: dict[tuple[str, str], ModelReport] = {}
        for key, (model, latency) in self._models.items():
            reports[key] = ModelReport()
            reports[key].CopyFrom(model)
            latency.put(reports[key].average_latency)
        for (llm, asked), failures in self._failures.items():
            name = self._answers_as.get((llm, asked), asked)
            reports.setdefault((llm, name), ModelReport(llm=llm, model=name)).failures += failures
        return sorted(reports.values(), key=_dearest_first)

    def tools(self) -> list[ToolReport]:
        """By tool, the one that was called most first."""
        for tool, latency in self._tools.values():
            latency.put(tool.average_latency)
        return sorted((tool for tool, _ in self._tools.values()), key=lambda tool: -tool.calls)

    def steps(self) -> list[StepReport]:
        """By turn, in the order in which they began."""
        return [step for step, _ in self._steps.values()]


def _dearest_first(report: AgentReport | ModelReport) -> tuple[int, int]:
    return -report.cost.nano_usd, -(report.usage.input_tokens + report.usage.output_tokens)
