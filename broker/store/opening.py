"""Which store a setting names: a file, or a Redis. Imports ports and errors, and its sister stores."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.errors import SettingsError, Unavailable
from broker.ports import Backend, Clock
from broker.store.database import look_at
from broker.store.redis import inspect_redis, open_redis
from broker.store.redis_address import Address, parse
from broker.store.sqlite import open_sqlite


def is_address(store: str) -> bool:
    """Whether the setting is the address of a server, not a path."""
    return "://" in store


def shown(store: str) -> str:
    """The setting as it may stand in messages and logs: without a password. Raises SettingsError as `open_store`."""
    return parse(store).shown if is_address(store) else store


async def open_store(store: str, clock: Clock, password_file: Path | None = None) -> Backend:
    """The store that the setting `store` names. `clock` judges the leases and ages of a file; a server judges them by
    its own. `password_file`: its first line is the server's password, and wins over one in the address.

    Raises SettingsError where it can never be used as it stands, Unavailable where it cannot be reached now."""
    if not is_address(store):
        return await open_sqlite(store, clock)
    return await open_redis(_address(store, password_file))


async def weaknesses(store: str, password_file: Path | None = None) -> list[str]:
    """What an operator should know of the store that the setting names, without making or changing anything there: a
    sentence each, none for a file. Raises SettingsError as `open_store`."""
    if not is_address(store):
        await asyncio.to_thread(look_at, Path(store))
        return []
    try:
        return await inspect_redis(_address(store, password_file))
    except Unavailable as error:
        return [error.detail]


def _address(store: str, password_file: Path | None) -> Address:
    return parse(store, None if password_file is None else _first_line(password_file))


def _first_line(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}", key="store_password_file") from error
