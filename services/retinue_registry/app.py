"""Opens the registry in dependency order: store, registry, the project's files; then it can be served."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from retinue.registry.v1 import service_pb2, service_pb2_grpc
from retinue_kit.server import Mount
from retinue_registry.convert import ProtoCodec
from retinue_registry.loading.watching import open_file_watch
from retinue_registry.registry import open_registry
from retinue_registry.retention import open_retention
from retinue_registry.servicer import RegistryServicer
from retinue_registry.settings import RegistrySettings
from retinue_registry.stores.sqlite.store import open_sqlite_store
from retinue_registry.stores.store import Store

SERVICE_NAME = service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name


def open_store(settings: RegistrySettings, anchor: Path | None) -> AbstractAsyncContextManager[Store]:
    """The store that the settings name, for a project."""
    path = settings.sqlite_path(anchor)
    if path is not None:
        return open_sqlite_store(path)
    # The driver is imported where it is used: the embedded default starts without it.
    from retinue_registry.stores.mongo.store import open_mongo_store  # noqa: PLC0415 - see above

    return open_mongo_store(settings.registry_store)


@asynccontextmanager
async def open_app(settings: RegistrySettings) -> AsyncIterator[Sequence[Mount]]:
    """Open what the registry is made of.

    Raises StoreUnavailableError, and ValueError for a project that is not one.
    """
    anchor = settings.anchor()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings, anchor))
        registry = await stack.enter_async_context(
            open_registry(
                store,
                ProtoCodec(),
                heartbeat_s=settings.watch_heartbeat_s,
                queue_size=settings.watch_queue_size,
            )
        )
        roots = settings.roots(anchor)
        layers = await registry.loading.load(roots)
        if settings.watch_files:
            poll = settings.watch_files_poll
            await stack.enter_async_context(open_file_watch(registry.loading, roots, layers, poll=poll))
        await stack.enter_async_context(
            open_retention(
                registry.retention,
                versions=settings.retain_versions,
                requests_hours=settings.retain_requests_hours,
            )
        )
        servicer = RegistryServicer(registry)

        def add(server: grpc.aio.Server) -> None:
            service_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)

        yield [Mount(SERVICE_NAME, add)]
