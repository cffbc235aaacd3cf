"""Opens the store that the settings name, for an engine and for its maintenance."""

from contextlib import AbstractAsyncContextManager

from retinue_engine.settings import EngineSettings
from retinue_engine.stores.sqlite.store import open_sqlite_store
from retinue_engine.stores.store import Store


def open_store(settings: EngineSettings) -> AbstractAsyncContextManager[Store]:
    """The store that the settings name."""
    path = settings.sqlite_path
    if path is not None:
        return open_sqlite_store(path)
    # The driver is imported where it is used: the embedded default starts without it.
    from retinue_engine.stores.mongo.store import open_mongo_store  # noqa: PLC0415 - see above

    return open_mongo_store(settings.store)
