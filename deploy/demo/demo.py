"""One request to a whole federation, on this machine: `make demo`. Imports the client and its neighbours.

    python demo.py [--keep] [--folder DIR]     start, show, stop; `--keep` leaves all running
    python demo.py --stop [--folder DIR]       stop what was kept

Starts a data server, three site brokers and a federation broker as processes of their own, each on a free port of
127.0.0.1. Everything they write lies in the folder, which is made anew each time: configurations, logs, databases,
jobs. Whatever happens, what was started is stopped: at the end, on Ctrl-C, on a fault.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from string import Template

import sky
from processes import DemoError, Processes, stop_all
from terminal import Terminal, main, say

from broker.client.broker import Broker
from broker.client.offers import Offer
from broker.client.sessions import Session
from broker.client.words import money, size, span
from broker.domain.session import Promise

HERE = Path(__file__).resolve().parent
SITES = {
    "alba": "the archive: the data is here, 0.60 EUR a core hour",
    "borealis": "twice as fast, a good line, 2.00 EUR a core hour",
    "cumulus": "half as fast, far away, 0.12 EUR a core hour",
}
PREFER = ("balanced", "cheapest", "fastest", "closest")


class Federation:
    """The brokers, and the folder that they write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes = Processes(folder)
        self.urls: dict[str, str] = {}
        self.stop = self._processes.stop

    def prepare(self) -> tuple[int, str]:
        """An empty folder, and the data in it. Returns the catalogue's bytes and checksum."""
        stop_all(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "archive").mkdir(parents=True)
        shutil.copy(HERE / "fit.py", self._folder / "fit.py")
        return sky.write_catalogue(self._folder / "archive" / "galaxies.fits")

    def start(self) -> None:
        """Sites side by side, then the federation above them. Raises DemoError."""
        self._processes.python("data", str(HERE / "sky.py"), "serve", str(self._folder / "archive"))
        self._wait("data")  # the sites say where it lies
        for site in SITES:
            self._serve(site)
        self._wait(*SITES)
        self._serve("federation")
        self._wait("federation")

    def fill(self, name: str, **values: object) -> Path:
        """The file of that name, made from its template."""
        template = Template((HERE / "configs" / name).read_text())
        path = self._folder / name
        path.write_text(template.substitute(self.urls, folder=self._folder, uri=self._folder.as_uri(), **values))
        return path

    def _serve(self, name: str) -> None:
        self._processes.python(name, "-m", "broker.cli.main", "serve", str(self.fill(f"{name}.yaml")))

    def _wait(self, *names: str) -> None:
        for name in names:
            self.urls[name] = self._processes.said(name)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────


async def the_run(url: str) -> Session:
    """The one run that was accepted."""
    async with Broker(url) as client:
        return await client.session((await client.sessions())[0].uuid)


async def orders(url: str, request: Path) -> dict[str, list[Offer]]:
    """What each preference makes of the same request."""
    async with Broker(url) as client:
        asked = (client.submit(request, prefer=word) for word in PREFER)
        return {word: list(offers) for word, offers in zip(PREFER, await asyncio.gather(*asked), strict=True)}


def judge(folder: Path) -> str:
    """The fitted universe beside the one that the catalogue was drawn from. Raises DemoError where they differ."""
    found = json.loads((folder / "results" / "fit.json").read_text())
    for name, truth in (("H0", sky.HUBBLE), ("matter", sky.MATTER)):
        if not abs(found[name] - truth) < 5 * found[f"{name}_error"]:
            raise DemoError(f"the program found {name} = {found[name]:g}, the catalogue was drawn with {truth:g}")
    if found["galaxies"] != sky.GALAXIES:
        raise DemoError(f"the program saw {found['galaxies']} galaxies of {sky.GALAXIES}")
    return f"right: the catalogue was drawn from a universe with H0 = {sky.HUBBLE:g} and matter = {sky.MATTER:g}"


def compare(found: dict[str, list[Offer]]) -> Iterator[str]:
    yield f"{'--prefer':<10}  {'1':<20}  {'2':<20}  {'3':<20}".rstrip()
    for word, offers in found.items():
        cells = [f"{offer.site:<9}{_all_in(offer):>8}" for offer in offers]
        yield f"{word:<10}  {'  '.join(f'{cell:<20}' for cell in cells)}".rstrip()


def _all_in(offer: Offer) -> str:
    bounds = offer.facts.all_in
    return money(bounds.expected) if bounds else "?"


def promised(session: Session) -> Iterator[str]:
    """Actual against promised."""
    kept = session.document.promise or Promise()
    yield f"{'':<10}{'promised':>16}{'actual':>16}"
    for name, first, second in (
        ("start", _moment(kept.start), _moment(kept.actual_start)),
        ("runs for", _length(kept.duration), _length(kept.actual_duration)),
        ("costs", _money(kept.cost, kept.unit), _money(kept.actual_cost, kept.unit)),
    ):
        yield f"{name:<10}{first:>16}{second:>16}"


def _moment(when: datetime | None) -> str:
    return f"{when.astimezone():%H:%M:%S}" if when else "not known"


def _length(length: timedelta | None) -> str:
    return span(length) if length else "not known"


def _money(amount: float | None, unit: str | None) -> str:
    return "not known" if amount is None else f"{money(amount)} {unit or ''}".rstrip()


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────


def demo(folder: Path, keep: bool) -> None:
    """Start, show, and stop again unless it is to be kept and all went well."""
    began = time.monotonic()
    federation = Federation(folder)
    done = False
    try:
        count, checksum = federation.prepare()
        federation.start()
        federation.fill("hubble.yaml", bytes=count, checksum=checksum)
        introduce(federation, count, time.monotonic() - began)
        show(folder, federation.urls["federation"])
        done = True
    finally:
        if not (keep and done):
            federation.stop()
    if keep:
        say("\n".join(farewell(folder, federation)))
    else:
        say(f"\nStopped again, after {span(time.monotonic() - began)}. To look around yourself: KEEP=1 make demo")


def introduce(federation: Federation, count: int, took: float) -> None:
    say(f"Three sites, and radio-net, the broker above them, are up after {took:.1f} s:")
    for site, what in SITES.items():
        say(f"  {site:<9} {federation.urls[site]:<23} {what}")
    say(f"  radio-net {federation.urls['federation']}")
    say(f"The catalogue: {sky.GALAXIES} galaxies, {size(count)} of FITS, drawn by seed {sky.SEED}.")
    say()


def show(folder: Path, url: str) -> None:
    """From the question to the result. Raises DemoError."""
    os.environ["BROKER_URL"] = url
    request = folder / "hubble.yaml"
    terminal = Terminal(folder, {request.name: str(request)})
    terminal.command("submit", "hubble.yaml")
    # Before the run: what it shows of alba's promises corrects the figures of the next question.
    say("The same question, asked with other wishes; each site's all-in cost in EUR:")
    say("\n".join(compare(asyncio.run(orders(url, request)))) + "\n")
    terminal.command("accept", "1", "--watch")
    terminal.command("logs", "1")
    terminal.command("fetch", "1", "--to", str(folder / "results"))
    say(judge(folder))
    say("\n".join(promised(asyncio.run(the_run(url)))))


def farewell(folder: Path, federation: Federation) -> Iterator[str]:
    yield "\nAll is left running. Logs, configurations and jobs: " + str(folder)
    yield "To go on:"
    yield f"  export BROKER_URL={federation.urls['federation']} PATH={Path(sys.executable).parent}:$PATH"
    yield f"  broker submit {folder / 'hubble.yaml'} --prefer fastest"
    yield "  broker offers --explain      broker accept 1 --watch      broker status      broker sites"
    yield f"  curl {federation.urls['federation']}/status"
    yield "To end it:  make demo-stop"


if __name__ == "__main__":
    what = "One request to a whole federation, on this machine."
    sys.exit(main("demo", what, HERE.parents[1] / "demo-data", demo))
