"""`python -m retinue_kit.health ADDRESS`: exit 0 where the service there says that it is serving.

For container health checks. TLS and the certificates to trust come from the settings of every service.
"""

import asyncio
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from retinue.client import Access, open_channel

TIMEOUT_S = 3.0


async def is_serving(address: str) -> bool:
    """Whether the service at `host:port` says so within 3 s."""
    async with open_channel("service", address, Access.from_environment()) as channel:
        stub = health_pb2_grpc.HealthStub(channel.channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as failure:
            sys.stderr.write(f"{address}: {failure.code().name}: {failure.details()}\n")
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the command and its one argument
        sys.exit("usage: python -m retinue_kit.health HOST:PORT")
    sys.exit(0 if asyncio.run(is_serving(sys.argv[1])) else 1)
