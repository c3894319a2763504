"""What every command works with: the broker, the screen, the memory; and what a handle means. Imports the client.

A handle is a rank (`1`: of the set last shown), `SET/RANK`, the beginning of a uuid, a name, or a URL.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import typer

from broker.cli.memory import Memory
from broker.cli.screen import Screen
from broker.client.batchtable import HANDLE
from broker.client.broker import Broker
from broker.client.offers import Offer, Offers
from broker.client.sessions import LATEST, SOONEST, Session
from broker.errors import BadInput

_RANK = re.compile(r"^(?:([^/]+)/)?(\d{1,3}|best)$")

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass
class Desk:
    """`poll`: seconds between two looks at a session, at first and at most."""

    screen: Screen
    memory: Memory
    url: str | None = None
    poll: tuple[float, float] = (SOONEST, LATEST)

    def run(self, work: Callable[[Broker], Awaitable[int | None]]) -> None:
        """Do the work with the broker, connections kept for its length, and end the command with what it returns."""

        async def whole() -> int:
            async with Broker(self.url) as broker:
                return await work(broker) or 0

        try:
            code = asyncio.run(whole())
        except KeyboardInterrupt:
            self.screen.note("Stopped looking. A run that was accepted goes on: broker sessions")
            code = INTERRUPTED
        raise typer.Exit(code)

    async def offers(self, broker: Broker, handle: str | None) -> Offers:
        """The set that the handle names; None: the set last shown."""
        named = handle or self.memory.last_set(str(broker.url))
        if named is None:
            raise BadInput("no set was shown yet.", remedy="First: broker submit FILE")
        offers = await broker.offerset(named)
        self.remember(broker, offers)
        return offers

    def remember(self, broker: Broker, offers: Offers) -> None:
        self.memory.remember(str(broker.url), str(offers.uuid))

    async def session(self, broker: Broker, handle: str) -> Session:
        """The session that the handle names. A short number is a rank where a set was shown, else begins a uuid."""
        if handle.startswith(HANDLE):
            raise BadInput(f"{handle} is a batch.", remedy="Name one of its runs: broker sessions")
        match = None if "://" in handle else _RANK.match(handle)
        if match and (match[1] or self.memory.last_set(str(broker.url))):
            return await self.offer(broker, match[1], match[2])
        return await broker.session(handle)

    async def offer(self, broker: Broker, handle: str | None, rank: str) -> Offer:
        return ranked(await self.offers(broker, handle), rank)


def ranked(offers: Offers, rank: str) -> Offer:
    """Raises NotFound for a rank that no offer has, BadInput for what is no rank."""
    if rank == "best":
        return offers.best
    if not rank.isdigit():
        raise BadInput(f'"{rank}" is no rank.', remedy="Give best, or a number from the table.")
    return offers[int(rank)]


def of(context: typer.Context) -> Desk:
    desk = context.obj
    if not isinstance(desk, Desk):
        raise TypeError("commands are run by broker.cli.main")
    return desk
