"""Opens the registry in dependency order: store, registry, the project's files; then it can be served."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from retinue.registry.v1 import service_pb2, service_pb2_grpc
from retinue_kit.server import Mount
from retinue_registry.convert import ProtoCodec
from retinue_registry.registry import open_registry
from retinue_registry.servicer import RegistryServicer
from retinue_registry.settings import RegistrySettings
from retinue_registry.store_sqlite import open_sqlite_store

SERVICE_NAME = service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name


@asynccontextmanager
async def open_app(settings: RegistrySettings) -> AsyncIterator[Sequence[Mount]]:
    """Open what the registry is made of.

    Raises StoreUnavailableError, and ValueError for a project that is not one.
    """
    anchor = settings.anchor()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_sqlite_store(settings.store_folder(anchor)))
        registry = await stack.enter_async_context(
            open_registry(
                store,
                ProtoCodec(),
                heartbeat_s=settings.watch_heartbeat_s,
                queue_size=settings.watch_queue_size,
            )
        )
        await registry.loading.load(anchor)
        servicer = RegistryServicer(registry)

        def add(server: grpc.aio.Server) -> None:
            service_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)

        yield [Mount(SERVICE_NAME, add)]
