"""Asks a service how it is, by the gRPC health protocol."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retinue.client import Access

CHECK_TIMEOUT_S = 2.0


async def check_health(
    service: str, address: str, access: "Access", *, timeout_s: float = CHECK_TIMEOUT_S
) -> None:
    """Return when a service answers that it serves. Raises a RetinueError where it does not."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from retinue.client import open_channel
    from retinue.errors import ServiceUnavailableError

    async with open_channel(service, address, access) as channel:
        stub = health_pb2_grpc.HealthStub(channel.channel)
        answer = await channel.unary(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=timeout_s)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise ServiceUnavailableError(f"the {service} at {address} answers {name}", state=name)


async def wait_healthy(service: str, address: str, access: "Access", *, timeout_s: float) -> None:
    """Return once a service answers that it serves; the last RetinueError where it does not in time."""
    from retinue.client.backoff import backoff_s
    from retinue.errors import RetinueError

    last: RetinueError | None = None
    waits = backoff_s()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await check_health(service, address, access)
                except RetinueError as error:
                    last = error
                await asyncio.sleep(next(waits))
    except TimeoutError:
        if last is None:
            raise
        raise last from None
