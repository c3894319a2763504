"""An event loop whose time is its own and whose order of ready callbacks is drawn. Imports the standard library only.

Nothing is waited for: when nobody is ready, time jumps to the next timer. Who is next among those that are ready is
drawn from the seed, so one seed is one order, and many seeds are many.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from contextvars import Context, ContextVar
from random import Random
from typing import Any, Protocol, TypeVar, TypeVarTuple
from unittest.mock import patch

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_800_000_000.0  # the wall clock at the loop's beginning
BEGIN = 1000.0  # the loop's own time then


class Owner(Protocol):
    """Whose tasks are to be known: `tasks` keeps those that are not done, in the order in which they were made."""

    tasks: dict[asyncio.Task[Any], None]


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)


class Stuck(Exception):
    """Everybody waits for something that nobody will do."""


class Numbered(asyncio.Task[Any]):
    """A task with a hash that is the same in every run of one seed, so that sets of tasks have one order."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, context: Any):
        self.number = number
        super().__init__(coro, loop=loop, name=f"task {number}", context=context)

    def __hash__(self) -> int:
        return self.number


class DrawnLoop(asyncio.BaseEventLoop):
    """As much of an event loop as services, stores on an inline executor and asyncio's own tools want. Of its base it
    uses nothing that schedules."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now = BEGIN
        self._next: list[asyncio.Handle] = []
        self._later: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = 0
        self._active = self._over = False
        self.steps = 0
        super().__init__()  # it asks at once whether it is running

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    def run_until_complete(self, future: Any) -> Any:
        """Raises Stuck when nothing can happen any more and `future` is not done."""
        task = asyncio.ensure_future(future, loop=self)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._active = True
        try:
            while not task.done():
                self._turn()
        finally:
            self._active = False
            asyncio._set_running_loop(before)
        return task.result()

    def _turn(self) -> None:
        if not self._next:
            self._jump()
        place = self._random.randrange(len(self._next)) if len(self._next) > 1 else 0
        handle = self._next.pop(place)
        self.steps += 1
        if not handle.cancelled():
            handle._run()

    def _jump(self) -> None:
        """To the earliest timer; all that are due at that moment are ready together."""
        while self._later and self._later[0][2].cancelled():
            heapq.heappop(self._later)
        if not self._later:
            raise Stuck("everybody waits, and nothing is going to happen")
        self._now = max(self._now, self._later[0][0])
        while self._later and self._later[0][0] <= self._now:
            self._next.append(heapq.heappop(self._later)[2])

    def time(self) -> float:
        return self._now

    def is_running(self) -> bool:
        return self._active

    def is_closed(self) -> bool:
        return self._over

    def close(self) -> None:
        self._next.clear()
        self._later.clear()
        self._over = True

    def get_debug(self) -> bool:
        return False

    # ── callbacks ────────────────────────────────────────────────────────────────────────────────────────────

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._next.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)  # there is one thread

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._later, (when, self._number, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio calls this; a cancelled timer is passed over when its turn comes."""

    # ── futures and tasks ────────────────────────────────────────────────────────────────────────────────────

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        owner = context.get(OWNER) if context is not None else OWNER.get()
        self._number += 1
        task = Numbered(self._number, coro, self, context)
        if owner is not None:
            owner.tasks[task] = None
            task.add_done_callback(lambda done: owner.tasks.pop(done, None))
        return task

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Only what an inline executor runs has one order."""
        assert executor is not None
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    # ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody asked for any more: the tasks of the dead end in all manners. What lives logs its own."""


@contextmanager
def world(random: Random) -> Iterator[DrawnLoop]:
    """A loop, and while it is open no other source of time, chance or order: `os.urandom`, `secrets`, `time` and the
    garbage collector are the seed's as well. One thread only."""
    loop = DrawnLoop(random)
    # Of its own: what a service draws must not move the order of callbacks.
    draw = Random(random.getrandbits(64))  # noqa: S311 - it is there to be foretold
    with ExitStack() as stack:
        for module, name, stand_in in (
            (os, "urandom", draw.randbytes),
            (secrets, "token_hex", lambda size=32: draw.randbytes(size or 32).hex()),
            (time, "monotonic", loop.time),
            (time, "time", lambda: EPOCH + loop.time() - BEGIN),
        ):
            stack.enter_context(patch.object(module, name, stand_in))
        collecting = gc.isenabled()
        gc.disable()
        if collecting:
            stack.callback(gc.enable)
        stack.callback(loop.close)
        yield loop


def apart() -> Context:
    """A context in which no task is anybody's."""
    return contextvars.Context()
