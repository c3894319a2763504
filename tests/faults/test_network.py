"""The network itself fails: the cable is out, packets are lost, nobody answers for names.

The broker runs in a network of its own, the sites are at the other end of a cable. Linux and root.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.testing.desk import PATIENCE, Desk, Place, eventually
from broker.testing.netns import Networks
from broker.testing.program import Caller, Program
from broker.testing.proxy import Point, Proxy
from broker.testing.site import FakeSite

pytestmark = [pytest.mark.system]

Far = Callable[..., AbstractAsyncContextManager[Place]]
StartInside = Callable[..., AbstractAsyncContextManager[Desk]]


@asynccontextmanager
async def far_place(networks: Networks, name: str, **terms: Any) -> AsyncIterator[Place]:
    """A site at the other end of the cable."""
    async with FakeSite(name, auto=True, **terms) as site:
        there = Proxy("127.0.0.1", int(site.url.rpartition(":")[2]), listen=(networks.there.address, 0),
                      near=networks.there.tcp)  # fmt: skip
        async with there as wire:
            yield Place(site, wire)


@asynccontextmanager
async def inside(networks: Networks, folder: Path, **settings: Any) -> AsyncIterator[Desk]:
    """A broker in `here`, called from in there."""
    program = Program(folder, "federation", within=networks.here.within, **settings)
    connector = aiohttp.TCPConnector(socket_factory=lambda _: networks.here.tcp())
    try:
        await asyncio.to_thread(program.start)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            yield Desk(program, Caller(http))
    finally:
        program.kill()


def settings(**sites: str) -> dict[str, Any]:
    return {
        "sites": {name: {"url": url, "poll": 0.2, "timeout": 1.0} for name, url in sites.items()},
        "acceptance": {"forward": 1.0, "patience": 300.0},
        "fanout": {"deadline": 1.5, "grace": 1.0},
    }


def outcomes(answer: Any) -> dict[str, str]:
    return {entry["site"]: entry["outcome"] for entry in answer["outcomes"]}


@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.faults)])
async def test_the_network_goes_with_the_acceptance_and_comes_back(
    networks: Networks, tmp_path: Path, seconds: float
) -> None:
    async with AsyncExitStack() as stack:
        alba = await stack.enter_async_context(far_place(networks, "alba"))
        desk = await stack.enter_async_context(inside(networks, tmp_path, **settings(alba=alba.wire.url)))
        await desk.live("alba")
        first, second = (await desk.offers())[0], (await desk.offers())[0]
        await desk.accept(second)  # one that runs all the while
        stop = alba.wire.hold(b"ACCEPTED", Point.ANSWER)
        accepting = asyncio.create_task(desk.accept(first))
        await stop.reached()
        networks.here.pull()
        stop.go_on()
        heard = await accepting
        assert (heard.status, heard.json()["phase"]) == (200, "OFFERED")
        nothing = (await desk.ask()).json()
        assert (nothing["result"], outcomes(nothing)["alba"]) in (("NO", "TimedOut"), ("NO", "Failed"))
        await asyncio.sleep(seconds)
        assert await desk.phase(first) == "OFFERED"
        assert await desk.phase(second) not in ("", "FAILED", "OFFERED")
        networks.here.plug()
        assert (await desk.until(first), await desk.until(second)) == ("COMPLETED", "COMPLETED")
        assert sorted(alba.site.executions.values()) == [1, 1]

        async def offers_again() -> bool:
            return bool((await desk.ask()).json()["result"] == "YES")

        await eventually(offers_again)


@pytest.mark.faults
async def test_of_what_is_sent_a_part_is_lost(networks: Networks, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        alba = await stack.enter_async_context(far_place(networks, "alba"))
        borealis = await stack.enter_async_context(far_place(networks, "borealis", broker_id="their-id"))
        urls = {place.name: place.wire.url for place in (alba, borealis)}
        desk = await stack.enter_async_context(inside(networks, tmp_path, **settings(**urls)))
        await desk.live("alba", "borealis")
        paths = [(await desk.offers(name))[0] for name in ("alba", "borealis") for _ in range(4)]
        for network in networks:
            network.lose(0.25)
        await asyncio.gather(*(desk.accept(path) for path in paths))
        for network in networks:
            network.lose(0.0)
        ends = await asyncio.gather(*(desk.until(path) for path in paths))
        # To which no connection could be made, that was surely not sent; all else runs, once.
        assert set(ends) <= {"COMPLETED", "REJECTED"}
        runs = [*alba.site.executions.values(), *borealis.site.executions.values()]
        assert runs == [1] * ends.count("COMPLETED")


class Names:
    """The resolver of `here`: every name means `there`, once it answers. Until then it takes questions in silence."""

    def __init__(self, networks: Networks) -> None:
        self._socket = networks.there.udp()
        self._socket.setblocking(False)
        self._socket.bind((networks.there.address, 53))
        self._address = bytes(int(part) for part in networks.there.address.split("."))
        self.asked = 0
        self.answers = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                question, caller = await loop.sock_recvfrom(self._socket, 512)
                self.asked += 1
                if self.answers.is_set():
                    await loop.sock_sendto(self._socket, self._answer(question), caller)
        finally:
            self._socket.close()

    def _answer(self, question: bytes) -> bytes:
        """One A record for an A question, an empty answer for every other."""
        end = question.index(b"\0", 12) + 5
        is_a = question[end - 4 : end - 2] == b"\0\1"
        counts = b"\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1" + (60).to_bytes(4, "big") + b"\0\4" + self._address
        return question[:2] + b"\x81\x80" + counts + question[12:end] + (record if is_a else b"")


async def test_nobody_answers_for_names_and_the_other_sites_do_not_feel_it(
    mute_networks: Networks, tmp_path: Path
) -> None:
    """Many sites by names that are asked in vain, and one by a name that the machine itself knows."""
    async with AsyncExitStack() as stack:
        names = Names(mute_networks)
        serving = asyncio.create_task(names.run())
        stack.callback(serving.cancel)
        alba = await stack.enter_async_context(far_place(mute_networks, "alba"))
        port = alba.wire.url.rpartition(":")[2]
        mute = {f"mute-{n}": f"http://mute-{n}.example:{port}" for n in range(12)}
        start = inside(mute_networks, tmp_path, **settings(alba=f"http://known.example:{port}", **mute))
        desk = await stack.enter_async_context(start)
        await desk.live("alba")
        assert names.asked
        began = asyncio.get_running_loop().time()
        answer = (await desk.ask()).json()
        assert answer["result"] == "YES"
        assert outcomes(answer) == {"alba": "Offered", **dict.fromkeys(mute, "Skipped")}
        path = f"/sessions/{answer['offers'][0]['meta']['uuid']}"
        assert (await desk.accept(path)).json()["phase"] != "OFFERED"
        assert await desk.until(path) == "COMPLETED"
        assert asyncio.get_running_loop().time() - began < PATIENCE / 2
        names.answers.set()
        await desk.live("alba", *mute)
