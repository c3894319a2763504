"""A wire across every call to stores and planners: at the n-th, the process dies or hangs. Imports nothing of ours.

For tests that let a broker die at each step in turn. What lies behind the wire outlives it, as files and sites do.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Died(BaseException):
    """The process is gone: no handler of errors may see this."""


class Tripwire:
    """`at`: the number of the call, from 0; `after`: that call is still done, and its answer lost. `hangs`: instead of
    dying, the call never ends, `reached` is set, and later calls go through."""

    def __init__(self, at: int, *, after: bool = False, hangs: bool = False) -> None:
        self._at, self._after, self._hangs = at, after, hangs
        self.count = 0
        self.reached = asyncio.Event()
        self.calls: list[str] = []

    @property
    def tripped(self) -> bool:
        return self.count > self._at

    def behind(self, target: Any, name: str = "") -> Any:
        """`target` with its coroutine methods wired."""
        return _Wired(self, target, name)

    async def call(self, name: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number, self.count = self.count, self.count + 1
        self.calls.append(name)
        if number < self._at or (self._hangs and number > self._at):
            return await method(*args, **kwargs)
        if self._after and number == self._at:
            await method(*args, **kwargs)
        self.reached.set()
        if self._hangs:
            await asyncio.Event().wait()
        raise Died(name)


class _Wired:
    def __init__(self, wire: Tripwire, target: Any, name: str) -> None:
        self._wire, self._target, self._name = wire, target, name

    def __getattr__(self, attribute: str) -> Any:
        method = getattr(self._target, attribute)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def wired(*args: Any, **kwargs: Any) -> Any:
            return await self._wire.call(f"{self._name}.{attribute}", method, args, kwargs)

        return wired
