"""What the engine is made of, opened in the order in which one thing needs another."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from retinue.client import open_channel
from retinue_engine.agent.work import Means
from retinue_engine.closures import open_closures
from retinue_engine.host.toolbox import open_host_toolbox
from retinue_engine.llm.pricing import PriceTable
from retinue_engine.llm.routing import open_models
from retinue_engine.runs.acceptance import Acceptance
from retinue_engine.runs.keeping import open_keepers
from retinue_engine.runs.retention import open_retention
from retinue_engine.runs.working import Worker
from retinue_engine.servicers import diagnostics as servicer_diagnostics
from retinue_engine.servicers import inputs as servicer_inputs
from retinue_engine.servicers import memories as servicer_memories
from retinue_engine.servicers import runs as servicer_runs
from retinue_engine.servicers import sessions as servicer_sessions
from retinue_engine.servicers import workers as servicer_workers
from retinue_engine.settings import EngineSettings
from retinue_engine.stores.opening import open_store
from retinue_engine.story.remote_feeds import open_remote_feeds
from retinue_kit.server import Mount


@asynccontextmanager
async def open_app(settings: EngineSettings) -> AsyncIterator[Sequence[Mount]]:
    """Open the engine and yield its services."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        store = await enter(open_store(settings))
        registry = await enter(open_channel("registry", settings.registry_address, settings.access))
        host = await enter(open_channel("MCP host", settings.mcp_host_address, settings.access))
        closures = await enter(open_closures(registry))
        toolbox = await enter(open_host_toolbox(host))
        models = await enter(open_models())
        allowed = settings.allowed
        prices = PriceTable()
        await asyncio.to_thread(prices.warm)
        workers = await enter(servicer_workers.open_workers(settings))
        means = Means(
            models,
            toolbox,
            prices,
            settings.max_depth,
            allowed,
            workers.open,
            settings.worker_connect_s,
        )
        worker = Worker(store, means)
        keepers = await enter(
            open_keepers(
                store,
                worker.work,
                lease_s=settings.lease_s,
                max_active_runs=settings.max_active_runs,
                max_queued_runs=settings.max_queued_runs,
            )
        )
        acceptance = Acceptance(store, closures, keepers.supervisor, keepers.dispatcher, allowed)
        await enter(open_retention(store, days=settings.retain_days, sessions=settings.retain_sessions))
        remote = await enter(open_remote_feeds(store))
        runs = servicer_runs.RunServicer(store, acceptance, keepers, remote, settings.heartbeat_s)
        inputs = servicer_inputs.InputServicer(store, keepers.dispatcher)
        sessions = servicer_sessions.SessionServicer(store)
        memories = servicer_memories.MemoryServicer(store)
        diagnostics = servicer_diagnostics.DiagnosticsServicer(registry, allowed)
        yield [
            Mount(servicer_runs.SERVICE, runs.add_to),
            Mount(servicer_inputs.SERVICE, inputs.add_to),
            Mount(servicer_sessions.SERVICE, sessions.add_to),
            Mount(servicer_memories.SERVICE, memories.add_to),
            Mount(servicer_diagnostics.SERVICE, diagnostics.add_to),
        ]
