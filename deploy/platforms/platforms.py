"""One program on platforms of every kind: `make demo SITES=slurm,containers,wes`. Imports the demo's parts.

    SITES=slurm,containers python platforms.py [--folder DIR]

Starts a real server of each platform that is named, a site broker before each (and one of kind `local`), and the broker
above them, on free ports of 127.0.0.1; asks them all the same question; has the same program run at each, chosen by the
request's own wishes; and holds the results against one another. Wants `make servers`. All is written to the folder, and
stopped at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo"))  # what the demos are made of

from parts import PARTS, Part
from processes import DemoError
from terminal import Terminal, main, say
from world import REQUEST, World

from broker.client.broker import Broker
from broker.client.sessions import Session
from broker.client.words import span


def wanted(words: str) -> dict[str, Part]:
    """`local`, and the platforms that are named. Raises DemoError for one that there is none of, or that cannot be
    started here."""
    named = [word.strip() for word in words.split(",") if word.strip()]
    for word in named:
        if word not in PARTS:
            raise DemoError(f"{word!r} is no platform that is shown; there are: {', '.join(PARTS)}.")
    chosen = {name: part for name, part in PARTS.items() if name in {"local", *named}}
    lacking = [f"{name}: {lacks}" for name, part in chosen.items() if (lacks := part.lacks())]
    if lacking:
        raise DemoError(f"{'; '.join(lacking)}. Run: make servers.")
    return chosen


async def run_at_each(url: str, request: Path, sites: Mapping[str, Part]) -> dict[str, Session]:
    """The same request to all, each time with the wish for one site; all at once."""
    async with Broker(url) as client:

        async def run(site: str) -> Session:
            offers = await client.submit(request, site=site)
            if not offers:
                raise DemoError(f"{site} makes no offer.")
            session = await (await offers.best.accept()).finished()
            if session.phase != "COMPLETED":
                raise DemoError(f"at {site} it ended {session.phase}: {'; '.join(session.messages)}")
            return session

        return dict(zip(sites, await asyncio.gather(*(run(site) for site in sites)), strict=True))


async def fetch(session: Session, folder: Path) -> dict[str, str]:
    """Name → SHA-256 of each result, fetched from the broker into the folder."""
    found = {}
    for name, file in sorted(session.results.items()):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        found[name] = hashlib.sha256((await file.fetch(place)).read_bytes()).hexdigest()
    return found


def lines(sites: Mapping[str, Part], ran: Mapping[str, Session], found: Mapping[str, dict[str, str]]) -> Iterator[str]:
    """A line for each site: what it calls the job, how long that took, what came out of it."""
    yield f"{'SITE':<12}{'PLATFORM':<14}{'JOB THERE':<30}{'RAN':>8}  RESULTS (SHA-256)"
    for site, session in ran.items():
        promise = session.document.promise
        took = span(promise.actual_duration) if promise and promise.actual_duration else "?"
        native = (session.document.native or "-")[:28]
        results = ", ".join(f"{name} {digest[:8]}" for name, digest in found[site].items())
        yield f"{site:<12}{session.document.platform or '?':<14}{native:<30}{took:>8}  {results}"


def platforms(folder: Path, keep: bool) -> None:
    """Start, show, stop. The platforms' servers end with this program, so nothing can be kept."""
    if keep:
        raise DemoError("its servers end with it: there is nothing to keep.")
    sites = wanted(os.environ.get("SITES", ""))
    began = time.monotonic()
    world = World(folder, sites)
    try:
        world.prepare()
        world.start()
        took = span(time.monotonic() - began)
        say(f"{len(sites)} platforms, a site broker before each, and radio-net are up after {took}:")
        for name, part in sites.items():
            say(f"  {name:<12}{part.about}")
        say()
        os.environ["BROKER_URL"] = world.urls["federation"]
        asyncio.run(show(folder, world, sites))
    finally:
        world.stop()
    say(f"Stopped again, after {span(time.monotonic() - began)}.")


async def show(folder: Path, world: World, sites: Mapping[str, Part]) -> None:
    """Raises DemoError for what does not come as it should."""
    request = folder / REQUEST
    terminal = Terminal(folder, {REQUEST: str(request)})
    await asyncio.to_thread(terminal.command, "submit", REQUEST)
    say("The same program at each of them, by `--site`:")
    ran = await run_at_each(world.urls["federation"], request, sites)
    async with Broker(world.urls["federation"]) as client:
        read = {site: await client.session(session.uuid) for site, session in ran.items()}
        found = {site: await fetch(session, folder / "results" / site) for site, session in read.items()}
    say("\n".join(lines(sites, read, found)) + "\n")
    say("A platform's own name of a job leads back to its session:")
    native = read[list(sites)[-1]].document.native or ""
    await asyncio.to_thread(terminal.command, "sessions", "--native", native.rpartition(" ")[2])
    if len({tuple(of.items()) for of in found.values()}) != 1 or not all(found.values()):
        raise DemoError("the results differ.")
    say("All results are the same, to the byte.\n")


if __name__ == "__main__":
    what = "One program on platforms of every kind."
    sys.exit(main("platforms", what, Path(__file__).resolve().parents[2] / "platforms-data", platforms))
