"""An engine that tells made-up stories, on a real server on port 0."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_status import rpc_status

from retinue.engine.v1 import (
    event_pb2,
    input_pb2,
    report_pb2,
    run_pb2,
    service_pb2,
    service_pb2_grpc,
    session_pb2,
)
from retinue.errors import RetinueError, RunNotFoundError, SequenceOutOfRangeError
from retinue.rpc_status import status_from_error

from .stories import RUN_ID, SESSION_ID

_BOUND_S = 20.0


class StoryTeller(
    service_pb2_grpc.RunServiceServicer,
    service_pb2_grpc.InputServiceServicer,
    service_pb2_grpc.SessionServiceServicer,
):
    """Answers each run with the same story."""

    def __init__(self) -> None:
        self.story: list[event_pb2.RunEvent] = []
        self.pause_after = 0
        """Events after which a watch waits until `go_on` is set, which it clears then; 0: never."""
        self.go_on = threading.Event()
        self.refusal: RetinueError | None = None
        self.requests: list[service_pb2.RunRequest] = []
        self.watched_after: list[int] = []
        self.watches: list[service_pb2.WatchRunRequest] = []
        self.cancelled: list[str] = []
        self.listed: list[service_pb2.ListRunsRequest] = []
        self.tokens: list[str] = []
        self.stored = run_pb2.Run(state=run_pb2.RUN_STATE_RUNNING, message="what is it?")
        """What is known of the run, beside how it ended."""
        self.settings = run_pb2.RunSettings()
        self.session = session_pb2.Session()
        self.messages: list[session_pb2.SessionMessage] = []
        self.report = report_pb2.RunReport()
        self.commands: list[object] = []
        """Requests to steer runs, to answer what they ask, and to change sessions, as they came."""
        self.inputs: list[input_pb2.InputRequest] = []
        self.refused_answers: list[RetinueError] = []
        """What the next answers are refused with."""
        self.answered = threading.Event()
        """Set when somebody has answered, also where it was refused."""

    def StartRun(self, request, context):  # noqa: N802, ANN001, ANN201 - named by gRPC
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        self.requests.append(request.run)
        self.refuse(context)
        return service_pb2.StartRunResponse(run=self.run())

    def StreamRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.requests.append(request.run)
        yield service_pb2.StreamRunResponse(events=self.story)

    def WatchRun(self, request, context):  # noqa: N802, ANN001, ANN201
        head = self.story[-1].sequence if self.story else 0
        if request.after_sequence > head:
            error = SequenceOutOfRangeError("beyond", last_sequence=self.pause_after or head)
            context.abort_with_status(rpc_status.to_status(status_from_error(error)))
        self.watched_after.append(request.after_sequence)
        self.watches.append(request)
        for event in self.story:
            if event.sequence <= request.after_sequence:
                continue
            yield service_pb2.WatchRunResponse(events=[event], through_sequence=event.sequence)
            if event.sequence == self.pause_after:
                self.go_on.wait(_BOUND_S)
                self.go_on.clear()

    def GetRun(self, request, context):  # noqa: N802, ANN001, ANN201
        _check(request.run_id, context)
        run = self.run()
        run.settings.CopyFrom(self.settings)
        return service_pb2.GetRunResponse(run=run)

    def ListRuns(self, request, context):  # noqa: N802, ANN001, ANN201
        self.listed.append(request)
        return service_pb2.ListRunsResponse(runs=[self.run()])

    def CancelRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.cancelled.append(request.reason)
        self.go_on.set()
        return service_pb2.CancelRunResponse(run=self.run())

    def PauseRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        return service_pb2.PauseRunResponse(run=self.run())

    def ResumeRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        return service_pb2.ResumeRunResponse(run=self.run())

    def RetryRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        return service_pb2.RetryRunResponse(run=self.run())

    def GetRunReport(self, request, context):  # noqa: N802, ANN001, ANN201
        _check(request.run_id, context)
        return service_pb2.GetRunReportResponse(report=self.report)

    def ListInputs(self, request, context):  # noqa: N802, ANN001, ANN201
        pending = input_pb2.INPUT_STATE_PENDING
        found = [each for each in self.inputs if request.include_closed or each.state == pending]
        return service_pb2.ListInputsResponse(inputs=found)

    def AnswerInput(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        self.answered.set()
        if self.refused_answers:
            refusal = self.refused_answers.pop(0)
            context.abort_with_status(rpc_status.to_status(status_from_error(refusal)))
        (found,) = (each for each in self.inputs if each.input_id == request.input_id)
        found.state = input_pb2.INPUT_STATE_ANSWERED
        found.answer.CopyFrom(request.answer)
        self.go_on.set()
        return service_pb2.AnswerInputResponse(input=found)

    def GetSession(self, request, context):  # noqa: N802, ANN001, ANN201
        self.session.session_id, self.session.message_count = request.session_id, len(self.messages)
        return service_pb2.GetSessionResponse(session=self.session)

    def ListSessions(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        self.session.session_id = SESSION_ID
        return service_pb2.ListSessionsResponse(sessions=[self.session])

    def UpdateSession(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        session = session_pb2.Session(session_id=request.session_id, labels=request.labels)
        return service_pb2.UpdateSessionResponse(session=session)

    def DeleteSession(self, request, context):  # noqa: N802, ANN001, ANN201
        self.commands.append(request)
        self.refuse(context)
        return service_pb2.DeleteSessionResponse(deleted_runs=3)

    def ExportSession(self, request, context):  # noqa: N802, ANN001, ANN201
        self.refuse(context)
        yield service_pb2.ExportSessionResponse(session=session_pb2.Session(session_id=request.session_id))
        for message in self.messages:
            yield service_pb2.ExportSessionResponse(message=message)
        yield service_pb2.ExportSessionResponse(run=self.run())

    def GetBlob(self, request, context):  # noqa: N802, ANN001, ANN201
        return service_pb2.GetBlobResponse(data=request.blob_id.encode())

    def ListSessionMessages(self, request, context):  # noqa: N802, ANN001, ANN201
        return service_pb2.ListSessionMessagesResponse(messages=self.messages)

    def refuse(self, context: grpc.ServicerContext) -> None:
        """End the call where it is to be refused."""
        if self.refusal is not None:
            context.abort_with_status(rpc_status.to_status(status_from_error(self.refusal)))

    def run(self) -> run_pb2.Run:
        """The run as it is stored."""
        run = run_pb2.Run(run_id=RUN_ID, root_run_id=RUN_ID, session_id=SESSION_ID)
        run.target.name = "assistant"
        run.MergeFrom(self.stored)
        run.create_time.GetCurrentTime()
        if self.story and self.story[-1].HasField("run_finished"):
            run.result.CopyFrom(self.story[-1].run_finished.result)
            run.state = run.result.state
        return run


def _check(run_id: str, context: grpc.ServicerContext) -> None:
    if run_id != RUN_ID:
        error = RunNotFoundError(f"there is no run {run_id}", run_id=run_id)
        context.abort_with_status(rpc_status.to_status(status_from_error(error)))


@contextmanager
def serving(teller: StoryTeller) -> Iterator[str]:
    """Serve the story teller; gives its address."""
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_RunServiceServicer_to_server(teller, server)
    service_pb2_grpc.add_InputServiceServicer_to_server(teller, server)
    service_pb2_grpc.add_SessionServiceServicer_to_server(teller, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        teller.go_on.set()
        server.stop(0).wait(_BOUND_S)
