"""`kill -9` of the federation's broker, of the site's, and of both: one run, and its result, whatever the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import aiohttp
import pytest

from broker.testing.program import ACCEPT, Caller, Program, above, platform

pytestmark = pytest.mark.system
Until = Callable[..., Awaitable[dict[str, Any]]]
ROUNDS = 5


class World(NamedTuple):
    site: Program
    top: Program


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    site = Program(folder, "alba", **platform(folder / "jobs")).start()
    top = Program(folder, "federation", **above(alba=site)).start()
    yield World(site, top)
    for program in (site, top):
        program.kill()


def restart(programs: Sequence[Program]) -> None:
    for program in programs:
        program.kill()
    for program in programs:
        program.launch()
    for program in programs:
        program.ready()


async def offer(call: Caller, top: Program, work: Any) -> str:
    """Asks when the site was seen: a broker that came up before its site looks again a little later."""
    async with asyncio.timeout(60):
        while (await call("GET", f"{top.url}/sites/alba")).json()["health"]["state"] != "live":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    answer = (await call("POST", f"{top.url}/requests", work.request())).json()
    assert answer["result"] == "YES", answer
    url: str = answer["offers"][0]["meta"]["url"]
    return url


@pytest.mark.parametrize("killed", [("top",), ("site",), ("site", "top")], ids=["federation", "site", "both"])
async def test_a_run_outlives_its_brokers(
    world: World, call: Caller, until: Until, work: Any, killed: Sequence[str]
) -> None:
    session = await offer(call, world.top, work)
    accepted = await call("POST", session, ACCEPT)
    assert accepted.json()["phase"] not in ("OFFERED", "REJECTED")
    await work.running()
    await asyncio.to_thread(restart, [getattr(world, name) for name in killed])
    kept = (await call("GET", session)).json()["phase"]
    assert kept not in ("OFFERED", "REJECTED", "EXPIRED", "FAILED", "CANCELLED")
    work.let_end()
    assert (await until(session))["phase"] == "COMPLETED"
    assert (await call("GET", f"{session}/results/answer.txt")).body == b"42"
    assert work.started == 1


async def test_a_run_that_ends_while_nobody_looks_is_found_ended(
    world: World, call: Caller, until: Until, work: Any
) -> None:
    session = await offer(call, world.top, work)
    await call("POST", session, ACCEPT)
    await work.running()
    for program in world:
        program.kill()
    work.let_end()
    await asyncio.to_thread(restart, world)
    assert (await until(session))["phase"] == "COMPLETED"
    assert (await call("GET", f"{session}/results/answer.txt")).body == b"42"
    assert work.started == 1


async def test_killed_around_the_acceptance_there_is_one_run_at_most_and_none_is_lost(
    world: World, call: Caller, until: Until, make_work: Callable[[str], Any]
) -> None:
    """Killed at moments between before the sending and after the answer; whoever had no answer asks again."""
    first = make_work("unharmed")
    first.let_end()
    session = await offer(call, world.top, first)
    clock = asyncio.get_running_loop().time
    began = clock()
    await call("POST", session, ACCEPT)
    took = clock() - began
    works, sessions, acknowledged = [first], [session], [True]
    for number in range(ROUNDS):
        work = make_work(f"round-{number}")
        work.let_end()
        session = await offer(call, world.top, work)
        accepting = asyncio.create_task(call("POST", session, ACCEPT))
        await asyncio.wait((accepting,), timeout=took * number / (ROUNDS - 2))
        world.top.kill()
        answers = await asyncio.gather(accepting, return_exceptions=True)
        acknowledged.append(not isinstance(answers[0], BaseException) and answers[0].json()["phase"] != "OFFERED")
        assert not isinstance(answers[0], Exception) or isinstance(answers[0], aiohttp.ClientError)
        await asyncio.to_thread(lambda: world.top.launch().ready())
        works.append(work)
        sessions.append(session)
    for work, session, known in zip(works, sessions, acknowledged, strict=True):
        phase = (await call("GET", session)).json()["phase"]
        assert not known or phase not in ("OFFERED", "REJECTED", "EXPIRED")
        if phase == "OFFERED":
            await call("POST", session, ACCEPT)
        assert (await until(session))["phase"] == "COMPLETED"
        assert work.started == 1
