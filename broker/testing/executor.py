"""Executors that tests steer. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs everything at once, in the caller's own thread: no threads, and one order of events every time."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class HeldExecutor(Executor):
    """Keeps everything back until `release`; what is submitted after that runs at once."""

    def __init__(self) -> None:
        self._inline = InlineExecutor()
        self._held: list[Callable[[], object]] | None = None

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for run in held:
            run()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._held is None:
            return self._inline.submit(fn, *args, **kwargs)
        future: Future[T] = Future()
        self._held.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future
