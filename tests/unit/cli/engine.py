"""An engine that tells made-up stories, on a real server on port 0."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_status import rpc_status

from retinue.engine.v1 import event_pb2, run_pb2, service_pb2, service_pb2_grpc, session_pb2
from retinue.errors import RetinueError, RunNotFoundError, status_from_error

from .stories import RUN_ID, SESSION_ID

_BOUND_S = 20.0


class StoryTeller(service_pb2_grpc.RunServiceServicer, service_pb2_grpc.SessionServiceServicer):
    """Answers each run with the same story."""

    def __init__(self) -> None:
        self.story: list[event_pb2.RunEvent] = []
        self.pause_after = 0
        """Events after which a watch waits until `go_on` is set; 0: never."""
        self.go_on = threading.Event()
        self.refusal: RetinueError | None = None
        self.requests: list[service_pb2.RunRequest] = []
        self.watched_after: list[int] = []
        self.cancelled: list[str] = []
        self.listed: list[service_pb2.ListRunsRequest] = []
        self.tokens: list[str] = []
        self.messages: list[session_pb2.SessionMessage] = []

    def StartRun(self, request, context):  # noqa: N802, ANN001, ANN201 - named by gRPC
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        self.requests.append(request.run)
        if self.refusal is not None:
            context.abort_with_status(rpc_status.to_status(status_from_error(self.refusal)))
        return service_pb2.StartRunResponse(run=self.run())

    def WatchRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.watched_after.append(request.after_sequence)
        for event in self.story:
            if event.sequence <= request.after_sequence:
                continue
            yield service_pb2.WatchRunResponse(events=[event], through_sequence=event.sequence)
            if event.sequence == self.pause_after:
                self.go_on.wait(_BOUND_S)

    def GetRun(self, request, context):  # noqa: N802, ANN001, ANN201
        if request.run_id != RUN_ID:
            error = RunNotFoundError(f"there is no run {request.run_id}", run_id=request.run_id)
            context.abort_with_status(rpc_status.to_status(status_from_error(error)))
        return service_pb2.GetRunResponse(run=self.run())

    def ListRuns(self, request, context):  # noqa: N802, ANN001, ANN201
        self.listed.append(request)
        return service_pb2.ListRunsResponse(runs=[self.run()])

    def CancelRun(self, request, context):  # noqa: N802, ANN001, ANN201
        self.cancelled.append(request.reason)
        self.go_on.set()
        return service_pb2.CancelRunResponse(run=self.run())

    def GetSession(self, request, context):  # noqa: N802, ANN001, ANN201
        session = session_pb2.Session(session_id=request.session_id, message_count=len(self.messages))
        return service_pb2.GetSessionResponse(session=session)

    def ListSessionMessages(self, request, context):  # noqa: N802, ANN001, ANN201
        return service_pb2.ListSessionMessagesResponse(messages=self.messages)

    def run(self) -> run_pb2.Run:
        """The run as it is stored."""
        run = run_pb2.Run(run_id=RUN_ID, session_id=SESSION_ID, state=run_pb2.RUN_STATE_RUNNING)
        run.target.name, run.message = "assistant", "what is it?"
        run.create_time.GetCurrentTime()
        if self.story and self.story[-1].HasField("run_finished"):
            run.result.CopyFrom(self.story[-1].run_finished.result)
            run.state = run.result.state
        return run


@contextmanager
def serving(teller: StoryTeller) -> Iterator[str]:
    """Serve the story teller; gives its address."""
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_RunServiceServicer_to_server(teller, server)
    service_pb2_grpc.add_SessionServiceServicer_to_server(teller, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        teller.go_on.set()
        server.stop(0).wait(_BOUND_S)
