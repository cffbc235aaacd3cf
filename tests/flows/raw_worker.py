"""A worker without `retinue_workflow`, as one in another language would be; its argument says what to do."""

import json
import os
import queue
import sys

import grpc

from retinue.engine.v1 import worker_service_pb2_grpc
from retinue.engine.v1.call_pb2 import RunCall, SleepCall, ToolUse, WorkflowCall, WriteState
from retinue.engine.v1.worker_pb2 import WorkerCall, WorkerResult, WorkRequest
from retinue.registry.v1.component_pb2 import ComponentRef

out: "queue.Queue[WorkRequest | None]" = queue.Queue()


def call(call_id: int, what: WorkflowCall, key: str = "") -> None:
    out.put(WorkRequest(call=WorkerCall(call_id=call_id, key=key, call=what)))


def main(what: str) -> None:
    token = "wrong" if what == "wrong token" else os.environ["RETINUE_WORKER_TOKEN"]
    metadata = (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(os.environ["RETINUE_WORKER_ADDRESS"]) as channel:
        stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        stream = stub.Work(iter(out.get, None), metadata=metadata)
        begin = next(stream).begin
        if what == "twice":
            try:
                next(stub.Work(iter([]), metadata=metadata))
            except grpc.RpcError as error:
                out.put(WorkRequest(result=WorkerResult(output_json=json.dumps(error.code().name))))
        elif what == "empty":
            out.put(WorkRequest())
        elif what == "no call":
            call(1, WorkflowCall())
        elif what == "rubbish":
            out.put(WorkRequest(result=WorkerResult(output_json="{")))
        elif what == "hangs up":
            out.put(None)
        elif what == "bad calls":
            bad = [
                (WorkflowCall(run=RunCall(target=ComponentRef(name="nobody"))), ""),
                (WorkflowCall(tool=ToolUse(server="none", tool="x")), ""),
                (WorkflowCall(sleep=SleepCall()), "k" * 201),
                (WorkflowCall(sleep=SleepCall()), "line\nbreak"),
                (WorkflowCall(write_state=WriteState(name="x", value_json="{")), ""),
                (WorkflowCall(write_state=WriteState(value_json="1")), ""),
                (WorkflowCall(write_state=WriteState(name="x", value_json=json.dumps("x" * 400_000))), ""),
            ]
            for number, (each, key) in enumerate(bad):
                call(number, each, key)
            answers = [next(stream).answer for _ in bad]
            said = {answer.call_id: answer.error.reason for answer in answers}
            out.put(WorkRequest(result=WorkerResult(output_json=json.dumps([said[n] for n in sorted(said)]))))
        else:
            run = RunCall(target=ComponentRef(name="writer"), message=json.loads(begin.input_json))
            call(7, WorkflowCall(run=run))
            answer = next(stream).answer
            out.put(WorkRequest(result=WorkerResult(output_json=answer.output_json)))
        for _ in stream:
            pass


main(sys.argv[1])
