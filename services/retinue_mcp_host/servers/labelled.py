"""Servers found by the labels of their components."""

from collections.abc import Mapping

from retinue.client import ServiceChannel
from retinue.errors import InvalidArgumentError, Violation
from retinue.registry.v1 import service_pb2, service_pb2_grpc
from retinue_mcp_host.convert import MCP_SERVER

PAGE_SIZE = 1000


class LabelledServers:
    """Asks the registry for names of servers."""

    def __init__(self, registry: ServiceChannel) -> None:
        self._registry = registry
        self._stub = service_pb2_grpc.RegistryServiceStub(registry.channel)

    async def names(self, namespace: str, labels: Mapping[str, str], most: int) -> list[str]:
        """The servers whose components have all of these labels, in the order of names.

        Raises InvalidArgumentError where there are more than `most`, ServiceUnavailableError.
        """
        names: list[str] = []
        token = ""
        while True:
            request = service_pb2.ListComponentsRequest(
                namespace=namespace, kind=MCP_SERVER, labels=labels, page_size=PAGE_SIZE, page_token=token
            )
            response = await self._registry.unary(self._stub.ListComponents, request)
            names += [component.name for component in response.components]
            if len(names) > most:
                raise InvalidArgumentError(
                    f"more than {most} MCP servers have these labels: give further labels",
                    violations=[Violation("labels", f"must fit at most {most} servers")],
                )
            token = response.next_page_token
            if not token:
                return sorted(names)
