"""Which store a setting names: a file, or a Redis. Imports ports and errors, and its sister stores."""

from __future__ import annotations

from broker.errors import SettingsError
from broker.ports import Backend, Clock
from broker.store.sqlite import open_sqlite


def is_address(store: str) -> bool:
    """Whether the setting is the address of a server, not a path."""
    return "://" in store


async def open_store(store: str, clock: Clock) -> Backend:
    """The store that the setting `store` names. Raises SettingsError where it can never be used as it stands,
    Unavailable where it cannot be reached now."""
    if is_address(store):
        raise SettingsError("no store of this kind is known.", key="store")
    return await open_sqlite(store, clock)
