"""What really happens: sites with cores and queues, transfers, caches, bills. Imports network and the files' models.

Each site takes its jobs first come, first served: the foremost waits until its cores are free, and nobody passes it.
What it will have to wait is therefore settled when it comes, but for what transfers in front of it do. A world can be
copied; two copies that are given the same decisions go the same way.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import exp

import numpy as np

from .federation import DataSet, Federation, Stream
from .network import Network, Transfer

HOUR = 3600.0
GB = 1e9


@dataclass(eq=False)
class Job:
    """Work at one site. `run`: seconds on it; `startup`: seconds before. `request` None: somebody else's. `billed`:
    EUR for its hours, `egress`: EUR for its bytes. `staged` counts transfers still under way."""

    cores: int
    run: float
    came: float
    request: int | None = None
    startup: float = 0.0
    site: int = -1
    slot: float | None = None
    begun: float | None = None
    ended: float | None = None
    pending: int = 0
    wanted: tuple[tuple[DataSet, int], ...] = ()
    ordered: float | None = None  # when its transfers began
    staged: float | None = None  # when the last of them was through
    moved: float = 0.0
    billed: float = 0.0
    egress: float = 0.0
    # From which site, bytes, seconds, and when it was through.
    transfers: list[tuple[int, float, float, float]] = field(default_factory=list)


@dataclass
class Place:
    """One site's present. `ends`: heap of when running jobs end, with a number to tell them apart."""

    free: int
    queue: deque[Job] = field(default_factory=deque)
    holding: dict[Job, None] = field(default_factory=dict)  # has its cores, waits for its data
    ends: list[tuple[float, int, Job]] = field(default_factory=list)
    cache: OrderedDict[str, float] = field(default_factory=OrderedDict)


class World:
    """`now` in seconds. Sites, requests and data sets go by number and name as in the files."""

    def __init__(self, federation: Federation, stream: Stream) -> None:
        self.federation, self.stream = federation, stream
        self.now = 0.0
        self.places = [Place(site.cores) for site in federation.sites]
        self.network = Network(federation)
        self.data = {item.name: item for item in federation.data}
        at = {storage.name: i for i, site in enumerate(federation.sites) for storage in site.storages}
        self.holders = {item.name: tuple(at[name] for name in item.replicas) for item in federation.data}
        self.prices = _prices(federation)
        self.jobs: dict[int, Job] = {}
        self.finished: list[Job] = []  # of requests, in the order of their ends
        self._events: list[tuple[float, int, object, int]] = []
        self._count = 0
        self._others = _background(federation, stream)
        self._next = 0
        count, sites = len(stream.requests), len(federation.sites)
        draw = np.random.default_rng([federation.seed, 4])
        self._luck = draw.normal(size=(3, count, sites)).astype(np.float32)  # startup, run, promise

    def copy(self) -> World:
        """Another world that has gone the same way so far. What never changes is shared."""
        same = (self.federation, self.stream, self.data, self.holders, self.prices, self._others)
        shared = [*same, *self.data.values(), self.network.paths, self.network.kilometres, self._luck]
        return deepcopy(self, {id(part): part for part in shared})

    # ── what a site foresees, and what is so ─────────────────────────────────────────────────────────────────

    def wait(self, site: int, cores: int) -> float:
        """Seconds until a session that comes now has its cores, given what is known of those before it."""
        place = self.places[site]
        if not place.queue and place.free >= cores:
            return 0.0
        ends = [(end, job.cores) for end, _, job in place.ends]
        ends += [(self._foreseen(job) + job.startup + job.run, job.cores) for job in place.holding]
        heapq.heapify(ends)
        free, time = place.free, self.now
        for need, run in [*((job.cores, job.startup + job.run) for job in place.queue), (cores, 0.0)]:
            while free < need:
                end, freed = heapq.heappop(ends)
                time, free = max(time, end), free + freed
            free -= need
            heapq.heappush(ends, (time + run, need))
        return time - self.now

    def _foreseen(self, job: Job) -> float:
        """When its data will be there, if nothing comes in between."""
        times = [
            self.now + transfer.left / transfer.rate
            for transfer in self.network.receiving[job.site]
            if transfer.owner is job and transfer.rate
        ]
        return max(times, default=self.now)

    def promised(self, request: int, site: int) -> float:
        """Seconds of waiting that the site promises for it."""
        truth = self.federation.sites[site].truth
        wait = self.wait(site, self.stream.requests[request].cores)
        return wait * truth.waiting * exp(truth.noise * self._luck[2, request, site]) if wait else 0.0

    def quoted(self, request: int, site: int) -> float:
        """EUR, for the time asked for."""
        wanted = self.stream.requests[request]
        return wanted.cores * self.federation.sites[site].price * wanted.duration / HOUR

    def run(self, request: int, site: int) -> float:
        """Seconds that it will take."""
        wanted, truth = self.stream.requests[request], self.federation.sites[site].truth
        luck = exp(truth.jitter * self._luck[1, request, site])
        return wanted.duration * wanted.share / truth.performance * luck

    def startup(self, request: int, site: int) -> float:
        return self.federation.sites[site].truth.startup * exp(0.5 * self._luck[0, request, site])

    def bill(self, request: int, site: int) -> float:
        """EUR, for the time that it really takes."""
        wanted, found = self.stream.requests[request], self.federation.sites[site]
        return wanted.cores * found.price * found.truth.price * self.run(request, site) / HOUR

    def missing(self, request: int, site: int) -> tuple[tuple[DataSet, int], ...]:
        """The data sets that would move to the site, each with the site it would come from: the nearest by distance,
        as Rucio sorts replicas. It is the platform that reads, so the rule has no say in it."""
        cache = self.places[site].cache
        return tuple(
            (self.data[name], min(self.holders[name], key=lambda other: (self.network.apart(other, site), other)))
            for name in self.stream.requests[request].data
            if name not in cache and site not in self.holders[name]
        )

    def egress(self, wanted: Sequence[tuple[DataSet, int]]) -> float:
        """EUR."""
        return sum(self.prices[source] * item.bytes / GB for item, source in wanted) * self.federation.network.surcharge

    def staging(self, wanted: Sequence[tuple[DataSet, int]], site: int) -> float:
        """Seconds, if they began now and nothing came in between."""
        more = {source: sum(other == source for _, other in wanted) for _, source in wanted}
        rates = (self.network.rate(source, site, more[source], len(wanted)) for _, source in wanted)
        return max((item.bytes / rate for (item, _), rate in zip(wanted, rates, strict=True)), default=0.0)

    def ready(self, request: int, site: int) -> float:
        """Seconds until its work would begin there, if nothing came in between."""
        wait = self.wait(site, self.stream.requests[request].cores)
        staging = self.staging(self.missing(request, site), site)
        ahead = self.federation.sites[site].truth.prefetch
        return (max(wait, staging) if ahead else wait + staging) + self.startup(request, site)

    # ── what goes on ─────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, until: float) -> None:
        """Everything up to that instant, in its order."""
        while True:
            other = self._others[self._next] if self._next < len(self._others) else None
            event = self._events[0][0] if self._events else None
            if other is not None and other[0] <= until and (event is None or other[0] < event):
                self.now, self._next = other[0], self._next + 1
                self._arrive(Job(other[2], other[3], other[0], site=other[1]))
            elif event is not None and event <= until:
                self._happen()
            else:
                break
        self.now = until

    def place(self, request: int, site: int) -> Job:
        """The request goes to that site now."""
        wanted = self.stream.requests[request]
        job = Job(
            wanted.cores, self.run(request, site), self.now, request, self.startup(request, site), site,
            wanted=self.missing(request, site),
        )  # fmt: skip
        self.jobs[request] = job
        job.billed = self.bill(request, site)
        for name in wanted.data:
            if name in self.places[site].cache:
                self.places[site].cache.move_to_end(name)
        if not job.wanted:
            job.staged = self.now
        elif self.federation.sites[site].truth.prefetch:
            self._order(job)
        self._arrive(job)
        return job

    def finish(self) -> None:
        """Until the last of the stream's sessions has ended."""
        while any(job.ended is None for job in self.jobs.values()):
            self.advance(self.now + HOUR)

    def _arrive(self, job: Job) -> None:
        self.places[job.site].queue.append(job)
        self._serve(job.site)

    def _serve(self, site: int) -> None:
        place = self.places[site]
        while place.queue and place.queue[0].cores <= place.free:
            job = place.queue.popleft()
            place.free -= job.cores
            job.slot = self.now
            if job.wanted and job.ordered is None:
                self._order(job)
            if job.request is None or job.staged is not None:
                self._start(job)
            else:
                place.holding[job] = None

    def _start(self, job: Job) -> None:
        job.begun = self.now + job.startup
        self._count += 1
        end = job.begun + job.run
        heapq.heappush(self.places[job.site].ends, (end, self._count, job))
        self._expect(end, job, 0)

    def _order(self, job: Job) -> None:
        """Its transfers begin."""
        job.ordered, job.pending = self.now, len(job.wanted)
        job.egress = self.egress(job.wanted)
        for item, source in job.wanted:
            transfer = Transfer(source, job.site, item.bytes, job, item.name, self.now, item.bytes, self.now)
            self._reckon(self.network.begin(transfer, self.now))

    def _reckon(self, changed: Sequence[Transfer]) -> None:
        for transfer in changed:
            self._expect(self.now + transfer.left / transfer.rate, transfer, transfer.turn)

    def _expect(self, at: float, what: object, turn: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, what, turn))

    def _happen(self) -> None:
        self.now, _, what, turn = heapq.heappop(self._events)
        if isinstance(what, Job):
            self._end(what)
        elif isinstance(what, Transfer) and what.turn == turn:
            self._arrived(what)

    def _end(self, job: Job) -> None:
        place = self.places[job.site]
        heapq.heappop(place.ends)  # the first to end is this one, or one that ends at the very moment
        place.free += job.cores
        job.ended = self.now
        if job.request is not None:
            self.finished.append(job)
        self._serve(job.site)

    def _arrived(self, transfer: Transfer) -> None:
        self._reckon(self.network.end(transfer, self.now))
        job = transfer.owner
        assert isinstance(job, Job)
        self._keep(job.site, transfer.data, transfer.bytes)
        job.transfers.append((transfer.source, transfer.bytes, self.now - transfer.begun, self.now))
        job.moved += transfer.bytes
        job.pending -= 1
        if job.pending:
            return
        job.staged = self.now
        if job in self.places[job.site].holding:
            del self.places[job.site].holding[job]
            self._start(job)

    def _keep(self, site: int, name: str, size: float) -> None:
        """The latest used stay."""
        cache, room = self.places[site].cache, self.federation.sites[site].cache
        cache[name] = size
        cache.move_to_end(name)
        while sum(cache.values()) > room:
            cache.popitem(last=False)


def _prices(federation: Federation) -> list[float]:
    """EUR a GB out of each site's storages: what the links say."""
    stated = {link.source: link.price for link in federation.links}
    return [
        max((stated.get(storage.name, stated.get("*", 0.0)) for storage in site.storages), default=0.0)
        for site in federation.sites
    ]


def _background(federation: Federation, stream: Stream) -> list[tuple[float, int, int, float]]:
    """When, at which site, cores, seconds; until two days after the last request."""
    end = stream.requests[-1].at + 48 * HOUR
    found: list[tuple[float, int, int, float]] = []
    for number, site in enumerate(federation.sites):
        load = site.background
        if not load.load:
            continue
        draw = np.random.default_rng([federation.seed, 5, number])
        rate = load.load * site.cores / (load.cores * load.duration)
        # What runs already when the time begins, so that no site is empty then.
        busy = int(load.load * site.cores / load.cores)
        found += [(0.0, number, load.cores, run) for run in draw.exponential(load.duration, busy).tolist()]
        count = draw.poisson(rate * end)
        times, runs = np.sort(draw.uniform(0, end, count)).tolist(), draw.exponential(load.duration, count).tolist()
        found += [(at, number, load.cores, run) for at, run in zip(times, runs, strict=True)]
    found.sort()
    return found
