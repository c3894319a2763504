"""A fleet on this machine, and what it withstands: `make fleet`. Imports the client, its neighbours, the demo's parts.

    python fleet.py [--keep] [--folder DIR]     start, show, stop; `--keep` leaves all running
    python fleet.py --stop [--folder DIR]       stop what was kept

Starts three sites, a Redis, three replicas of one broker and HAProxy before them, each on a free port of 127.0.0.1.
Everything they write lies in the folder, which is made anew each time. Whatever happens, what was started is stopped.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo"))  # what both demos are made of

from processes import LOOK, START, DemoError
from running import REPLICAS, SITES, Fleet, missing
from terminal import Terminal, main, say
from traffic import Follower, Stream, Watcher, read_set, read_status

from broker.client.broker import Broker
from broker.client.words import span

HERE = Path(__file__).resolve().parent
T = TypeVar("T")
ABOUT = {
    "alba": "programs really run, on this machine",
    "borealis": "pretends, and is dear",
    "cumulus": "pretends, and is slow to answer",
}
AWAY = 3.0  # seconds for which there is no Redis
PAUSE = 0.2  # seconds between two calls of somebody who is told 503


class Show:
    """What a person would do, and what comes of it. Each step goes on from what the one before left."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self._folder, self._fleet = folder, fleet
        places = {f"${name.upper()}": fleet.url(name) for name in REPLICAS}
        self._terminal = Terminal(folder, places | {name: str(folder / name) for name in ("count.py", "results")})

    def steps(self) -> None:
        """Raises DemoError for what does not come as it should."""
        for number, (title, step) in enumerate(self._plan(), 1):
            say(f"── {number}. {title} ".ljust(100, "─"))
            step()
            say()

    def _plan(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "Asked at the balancer, read at each replica", self._ask
        yield "Accepted at one, followed at two, fetched at three", self._accept
        yield "A replica is killed in the middle of a run", self._lose_a_replica
        yield "All three are restarted, one after the other, while calls come in", self._roll
        yield "Redis is killed in the middle of a run", self._lose_redis
        yield "The fleet, as any replica tells of it", self._status

    def _ask(self) -> None:
        offerset = self._submit("first", 3)
        told = {name: asyncio.run(read_set(self._fleet.url(name), offerset)) for name in REPLICAS}
        say(f"{'read at':<9}{'ETag':<34}offers")
        for name, reading in told.items():
            say(f"{name:<9}{reading.version:<34}{', '.join(reading.phases)}")
        if len(set(told.values())) != 1:
            raise DemoError("the replicas do not tell the same.")

    def _accept(self) -> None:
        session = self._best()
        follower = Follower(self._fleet.url("two"), session)
        self._terminal.command("--url", "$ONE", "accept", session[:8])
        say(f"$ curl -N $TWO/sessions/{session}/events\nBegun before the acceptance. Of each event:")
        for event in follower.events():
            say(f"{event.seconds:6.1f} s  id {event.id:<3} {event.phase}")
        say()
        self._terminal.command("--url", "$THREE", "fetch", session[:8], "--to", "results")

    def _lose_a_replica(self) -> None:
        session = self._run("second", 5, "$ONE")
        self._fleet.kill("one")
        say("$ kill -9 one\nIt had taken the acceptance, and the program runs. The others go on:\n")
        self._see_it_end("second", session)
        began = time.monotonic()
        self._fleet.start_replica("one")
        say(f"one is started again, and gets calls after {time.monotonic() - began:.1f} s.")

    def _roll(self) -> None:
        took: list[str] = []
        with Stream(self._fleet.balancer) as stream:
            for name in REPLICAS:
                began = time.monotonic()
                self._fleet.restart(name)
                took.append(f"{name} after {time.monotonic() - began:.1f} s")
        say(f"Each was told to stop (SIGTERM), ended, was started, and got calls again: {', '.join(took)}.")
        say("Meanwhile callers asked, read what they were offered, and gave it back:")
        say("\n".join(stream.told()))
        if stream.failures:
            raise DemoError("calls failed.")

    def _lose_redis(self) -> None:
        session = self._run("third", 6, "$TWO")
        before = self._at(_kept)
        watcher = Watcher(self._fleet.balancer)
        self._fleet.kill("redis")
        began = time.monotonic()
        say("$ kill -9 redis\nWhat somebody sees who asks for offers meanwhile:")
        self._watch(watcher, began, lambda: time.monotonic() > began + AWAY, PAUSE)
        self._fleet.start_redis()
        there = time.monotonic()
        say(f"{there - began:6.1f} s  Redis is started again, and has read its file")
        self._watch(watcher, began, lambda: watcher.served, LOOK)
        say(f"Work goes on {time.monotonic() - there:.1f} s after Redis does.")
        after = self._at(_kept)
        if not before <= after:
            raise DemoError(f"{len(before - after)} offer sets and sessions are lost.")
        say(f"All of the {len(before)} offer sets and sessions that there were are there.\n")
        self._see_it_end("third", session)

    def _watch(self, watcher: Watcher, began: float, over: Callable[[], bool], pause: float) -> None:
        end = time.monotonic() + START
        while not over():
            if time.monotonic() > end:
                raise DemoError("nobody is served any more.")
            if watcher.look():
                say(f"{time.monotonic() - began:6.1f} s  {watcher.answer}")
            time.sleep(pause)

    def _status(self) -> None:
        say("$ curl $BROKER_URL/status      # three times; of each answer:")
        say(f"{'served by':<11}{'replica':<14}replicas alive")
        for _ in REPLICAS:
            told = asyncio.run(read_status(self._fleet.balancer))
            say(f"{told.served_by:<11}{told.replica:<14}{told.alive}")
        say()
        self._terminal.command("status")

    # ── parts of the steps ───────────────────────────────────────────────────────────────────────────────────

    def _at(self, work: Callable[[Broker], Awaitable[T]]) -> T:
        """Do it at the balancer."""

        async def whole() -> T:
            async with Broker(self._fleet.balancer) as broker:
                return await work(broker)

        return asyncio.run(whole())

    def _submit(self, name: str, seconds: int) -> str:
        """The uuid of the set."""
        self._terminal.command("submit", "count.py", "--arg", name, "--arg", str(seconds), "--for", "10m")
        return self._at(_latest)

    def _best(self) -> str:
        """The session of the best offer of the set asked last."""

        async def best(broker: Broker) -> str:
            return str((await broker.offerset(await _latest(broker))).best.uuid)

        return self._at(best)

    def _run(self, name: str, seconds: int, replica: str) -> str:
        """The session of a run that is under way, accepted at that replica."""
        self._submit(name, seconds)
        session = self._best()
        self._terminal.command("--url", replica, "accept", session[:8])
        end = time.monotonic() + START
        while not self._starts(name):
            if time.monotonic() > end:
                raise DemoError(f"{name} is accepted, and does not start.")
            time.sleep(LOOK)
        return session

    def _see_it_end(self, name: str, session: str) -> None:
        """Raises DemoError where it ended badly, or was started more than once."""
        self._terminal.command("watch", session[:8])
        if (starts := self._starts(name)) != 1:
            raise DemoError(f"{name} was started {starts} times.")
        say("The program wrote down each of its starts: there was one.")

    def _starts(self, name: str) -> int:
        file = self._folder / "starts"
        return file.read_text().splitlines().count(name) if file.exists() else 0


async def _latest(broker: Broker) -> str:
    """The uuid of the set asked last."""
    return (await broker.offersets())[0].uuid


async def _kept(broker: Broker) -> frozenset[str]:
    """The uuids of all sets and of all that was accepted."""
    return frozenset(line.uuid for line in (*await broker.offersets(), *await broker.sessions()))


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────


def fleet(folder: Path, keep: bool) -> None:
    """Start, show, and stop again unless it is to be kept and all went well."""
    if wanted := missing():
        raise DemoError(wanted)
    began = time.monotonic()
    running = Fleet(folder)
    done = False
    try:
        running.start()
        say("\n".join(introduced(running, time.monotonic() - began)))
        os.environ["BROKER_URL"] = running.balancer
        Show(folder, running).steps()
        done = True
    finally:
        if not (keep and done):
            running.stop()
    if keep:
        say("\n".join(farewell(folder, running)))
    else:
        say(f"Stopped again, after {span(time.monotonic() - began)}. To look around yourself: KEEP=1 make fleet")


def introduced(running: Fleet, took: float) -> Iterator[str]:
    yield f"Three replicas of one broker, before three sites, are up after {took:.1f} s:"
    yield f"  {'balancer':<9} {running.balancer:<28} HAProxy: each call to the next replica that is ready"
    for name in REPLICAS:
        yield f"  {name:<9} {running.url(name):<28} ${name.upper()}"
    yield f"  {'redis':<9} {running.places['redis']:<28} what makes them one: all that they know is there"
    for site in SITES:
        yield f"  {site:<9} {running.places[site]:<28} {ABOUT[site]}"
    yield ""


def farewell(folder: Path, running: Fleet) -> Iterator[str]:
    yield f"All is left running. Logs, configurations and jobs: {folder}"
    yield f"The balancer's own page: {running.places['state']}"
    yield "To go on:"
    yield f"  export BROKER_URL={running.balancer} PATH={Path(sys.executable).parent}:$PATH"
    yield f"  export {' '.join(f'{name.upper()}={running.url(name)}' for name in REPLICAS)}"
    yield f"  broker submit {folder / 'count.py'} --arg mine --arg 5"
    yield "  broker --url $ONE accept 1      broker --url $TWO sessions      broker status"
    yield "To end it:  make fleet-stop"


if __name__ == "__main__":
    what = "A fleet of one broker's replicas, on this machine."
    sys.exit(main("fleet", what, HERE.parents[1] / "fleet-data", fleet))
