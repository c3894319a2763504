"""Small questions to a Redis, asked together: those of one turn of the event loop go in one call to each server.

A fan-out asks for a token for each of its sites at the same moment. Imports its sister `redis_nodes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from broker.store.redis_nodes import Arg, Nodes, Script

MOST = 500  # questions in one call: about 2 ms in which the server answers nobody else

Waiting = tuple[int, msgspec.Raw, asyncio.Future[Any]]  # partition, question, answer


class Batch:
    """Questions to one script. For each root in KEYS it finds, in ARGV after `first`, a msgpack list of questions, and
    returns one flat list of answers, in that order. `first` is called once for each call."""

    def __init__(self, nodes: Nodes, script: Script, first: Callable[[], Sequence[Arg]]) -> None:
        self._nodes, self._script, self._first = nodes, script, first
        self._waiting: list[Waiting] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, number: int, *question: str | int | float) -> Any:
        """The answer to a question about partition `number`. Raises what `Nodes` raises. A question whose asker is
        cancelled may be answered all the same."""
        packed = msgspec.Raw(msgspec.msgpack.encode(question))  # here, so that one that cannot be is its asker's alone
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((number, packed, answer))
        if len(self._waiting) == 1:
            answer.get_loop().call_soon(self._send)
        return await answer

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MOST):
            task = asyncio.ensure_future(self._serve(waiting[start : start + MOST]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _serve(self, waiting: Sequence[Waiting]) -> None:
        asked: dict[int, list[Waiting]] = {}
        for one in waiting:
            asked.setdefault(one[0], []).append(one)
        try:
            lots = await self._nodes.apart(asked)
        except Exception as error:
            _fail(waiting, error)
            return
        # A server of a Cluster that is down keeps nobody waiting who asks another.
        await asyncio.gather(*(self._ask_lot({number: asked[number] for number in lot}) for lot in lots))

    async def _ask_lot(self, asked: Mapping[int, Sequence[Waiting]]) -> None:
        waiting = [one for some in asked.values() for one in some]
        own = {number: [msgspec.msgpack.encode([one[1] for one in some])] for number, some in asked.items()}
        try:
            replies = await self._nodes.each(self._script, *self._first(), numbers=own, own=own)
            for (_, _, answer), given in zip(waiting, (one for reply in replies for one in reply), strict=True):
                if not answer.done():
                    answer.set_result(given)
        except Exception as error:
            _fail(waiting, error)


def _fail(waiting: Sequence[Waiting], error: Exception) -> None:
    """Whatever it is, whoever waits must hear of it."""
    for _, _, answer in waiting:
        if not answer.done():
            answer.set_exception(error)
