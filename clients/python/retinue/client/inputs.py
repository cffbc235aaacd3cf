"""What runs ask people and other systems, and how it is answered."""

import json
from collections.abc import AsyncIterator

from retinue.client.channel import ServiceChannel
from retinue.engine.v1 import input_pb2, service_pb2, service_pb2_grpc


class Inputs:
    """Calls of the engine's InputService in one namespace.

    An answer may be given again after a broken connection. Answering raises InputClosedError where no answer
    is wanted any more, or somebody gave another one before.
    """

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.InputServiceStub(channel.channel)
        self._namespace = namespace

    async def list(
        self, run_id: str = "", *, include_closed: bool = False, page_size: int = 100
    ) -> AsyncIterator[input_pb2.InputRequest]:
        """Yield requests for input, the newest first, fetching pages as they are needed.

        Of one run's tree, or of all; pending ones, with `include_closed` also those that are answered or
        given up.
        """
        token = ""
        while True:
            request = service_pb2.ListInputsRequest(
                namespace=self._namespace,
                run_id=run_id,
                include_closed=include_closed,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListInputs, request)
            for each in response.inputs:
                yield each
            token = response.next_page_token
            if not token:
                return

    async def approve(
        self, request: input_pb2.InputRequest, arguments_json: str = ""
    ) -> input_pb2.InputRequest:
        """Let a tool be called; with `arguments_json`, a JSON object, in place of the model's arguments."""
        approval = input_pb2.Approval(arguments_json=arguments_json)
        return await self.answer(request, input_pb2.InputAnswer(approve=approval))

    async def deny(self, request: input_pb2.InputRequest, reason: str = "") -> input_pb2.InputRequest:
        """Let a tool not be called; the model is told why."""
        return await self.answer(request, input_pb2.InputAnswer(deny=input_pb2.Denial(reason=reason)))

    async def provide(self, request: input_pb2.InputRequest, value: object) -> input_pb2.InputRequest:
        """Answer a question with a value that can be written as JSON."""
        value_json = json.dumps(value, ensure_ascii=False)
        return await self.answer(request, input_pb2.InputAnswer(value_json=value_json))

    async def refuse(self, request: input_pb2.InputRequest) -> input_pb2.InputRequest:
        """Leave a question without an answer."""
        return await self.answer(request, input_pb2.InputAnswer(refuse=input_pb2.Refusal()))

    async def answer(
        self, request: input_pb2.InputRequest, answer: input_pb2.InputAnswer
    ) -> input_pb2.InputRequest:
        """Answer a request as it was listed or came in an event; return it with its answer."""
        response = await self._channel.unary(
            self._stub.AnswerInput,
            service_pb2.AnswerInputRequest(
                namespace=self._namespace,
                run_id=request.run_id,
                input_id=request.input_id,
                # It is for these arguments alone.
                arguments_sha256=request.approval.arguments_sha256,
                answer=answer,
            ),
        )
        return response.input
