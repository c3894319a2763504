"""Work that goes to where its data is, by catalogues that are real: `make locality`. Imports the demo's parts.

    python locality.py [--folder DIR]

Starts Rucio, DaCHS (TAP, DataLink) and moto (S3), three sites with a disk each, and the broker above them, on free
ports of 127.0.0.1; asks for a run on four data resources, each of which another catalogue knows; then moves the data,
and takes a catalogue away. Wants `make servers`. All is written to the folder, and stopped at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo"))  # what the demos are made of

from processes import DemoError
from terminal import Terminal, main, say
from world import SITES, World, missing

from broker.client.broker import Broker
from broker.client.offers import Offers
from broker.client.words import size, span

ABOUT = {
    "alba": "galaxies.fits, known to Rucio; flat.fits, known to DaCHS",
    "borealis": "mask.fits, an S3 object; deep.fits, known to Rucio",
    "cumulus": "notes.csv, at a plain address",
}


class Show:
    """What a person would do, and what comes of it."""

    def __init__(self, folder: Path, world: World) -> None:
        self._folder, self._world = folder, world
        places = ("galaxies.yaml", "deep.yaml", "results")
        self._terminal = Terminal(folder, {name: str(folder / name) for name in places})

    def steps(self) -> None:
        """Raises DemoError for what does not come as it should."""
        for number, (title, step) in enumerate(self._plan(), 1):
            say(f"── {number}. {title} ".ljust(100, "─"))
            step()
            say()

    def _plan(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "Four data resources, each known to another catalogue", self._ask
        yield "It runs there, on what the catalogues have found", self._run
        yield "Other galaxies, at another site: the run goes after them", self._follow_the_data
        yield "A catalogue is gone: what it knew is unknown, and says so", self._lose_a_catalogue
        yield "What the transfers really took", self._learned

    def _ask(self) -> None:
        self._world.request("galaxies")
        self._terminal.command("submit", "galaxies.yaml")
        self._terminal.command("offers", "--explain")
        self._leads("alba")

    def _run(self) -> None:
        self._terminal.command("accept", "1", "--watch")
        self._terminal.command("logs", "1")

    def _follow_the_data(self) -> None:
        self._world.request("deep")
        self._terminal.command("submit", "deep.yaml")
        self._leads("borealis")

    def _lose_a_catalogue(self) -> None:
        self._world.lose_objects()
        self._world.request("galaxies", mask="lost.fits")
        self._terminal.command("submit", "galaxies.yaml")
        unknown = [note for note in asyncio.run(self._latest()).response.located or () if note.bytes is None]
        if [note.element for note in unknown] != ["data[2]"] or not unknown[0].unknown:
            raise DemoError("what the lost catalogue knew does not read unknown.")

    def _learned(self) -> None:
        self._terminal.command("sites", "promises", "alba")

    def _leads(self, site: str) -> None:
        first = asyncio.run(self._latest()).best.site
        if first != site:
            raise DemoError(f"{first} leads, and not {site}, where most of the data is.")

    async def _latest(self) -> Offers:
        async with Broker(self._world.urls["federation"]) as client:
            return await client.offerset((await client.offersets())[0].uuid)


def locality(folder: Path, keep: bool) -> None:
    """Start, show, stop. The catalogues end with this program, so nothing can be kept."""
    if keep:
        raise DemoError("its servers end with it: there is nothing to keep.")
    if wanted := missing():
        raise DemoError(f"there is no {wanted} here; run: make servers.")
    began = time.monotonic()
    world = World(folder)
    try:
        world.prepare()
        world.start()
        say(f"Rucio, DaCHS, moto, three sites and radio-net are up after {span(time.monotonic() - began)}:")
        for site in SITES:
            say(f"  {site:<9} {ABOUT[site]}")
        say(f"galaxies.fits and deep.fits are {size(world.galaxies)} each.\n")
        os.environ["BROKER_URL"] = world.urls["federation"]
        Show(folder, world).steps()
    finally:
        world.stop()
    say(f"Stopped again, after {span(time.monotonic() - began)}.")


if __name__ == "__main__":
    what = "Work that goes to where its data is."
    sys.exit(main("locality", what, Path(__file__).resolve().parents[2] / "locality-data", locality))
