"""Federations and streams drawn from a seed. Imports numpy and the files' models.

Published figures serve as a guide. What is not among them is an assumption, and the comment beside it says so.

- 20 Gbit/s sustained between two sites, 150 TB in 24 hours, nine nodes: the SRCNet v0.1 test campaign,
  https://indico.cern.ch/event/1471803/contributions/6967427/
- lifetimes of jobs are spread evenly over their logarithm: A. Downey, a model of batch workloads,
  https://allendowney.com/research/predicting/paper/node17.html
- people ask for far more time than they need: C. B. Lee et al., https://doi.org/10.1007/11407522_14, and those cited
- a GB out of a commercial cloud: 0.05 to 0.09 USD, https://cloudcalcep.com/guides/egress-costs-guide.html; a virtual
  CPU and hour: about 0.048 USD, https://cloudcalcep.com/guides/cloud-pricing-explained.html
"""

from __future__ import annotations

from math import exp, log
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from broker.domain.site import Link, StorageElement

from .federation import Background, DataSet, Federation, Network, Request, Site, Stream, Truth

GBIT = 1.25e8
HOUR = 3600.0
DAY = 24 * HOUR
KINDS = ("docker-container-1.0", "jupyter-notebook-1.0")

# Name, country, latitude, longitude: cities of SKAO's members and partners, and some more.
CITIES = (
    ("cambridge", "GB", 52.2, 0.1), ("groningen", "NL", 53.2, 6.6), ("perth", "AU", -31.9, 115.9),
    ("capetown", "ZA", -33.9, 18.4), ("victoria", "CA", 48.4, -123.4), ("granada", "ES", 37.2, -3.6),
    ("trieste", "IT", 45.6, 13.8), ("lugano", "CH", 46.0, 8.9), ("onsala", "SE", 57.4, 11.9),
    ("pune", "IN", 18.5, 73.9), ("shanghai", "CN", 31.2, 121.5), ("mitaka", "JP", 35.7, 139.6),
    ("daejeon", "KR", 36.4, 127.4), ("lisbon", "PT", 38.7, -9.1), ("paris", "FR", 48.9, 2.4),
    ("juelich", "DE", 50.9, 6.4), ("santiago", "CL", -33.4, -70.7), ("chicago", "US", 41.9, -87.6),
    ("auckland", "NZ", -36.8, 174.8), ("prague", "CZ", 50.1, 14.4), ("poznan", "PL", 52.4, 16.9),
    ("helsinki", "FI", 60.2, 24.9), ("saopaulo", "BR", -23.5, -46.6), ("ashburn", "US", 39.0, -77.5),
    ("dublin", "IE", 53.3, -6.3),
)  # fmt: skip


class Sort(NamedTuple):
    """Ranges to draw from, evenly over the logarithm. Assumptions but for the clouds' prices and the 20 Gbit/s."""

    share: float  # of all sites
    cores: tuple[float, float]
    price: tuple[float, float]  # EUR a core and hour; national and university nodes by an accounting price
    egress: tuple[float, float]  # EUR a GB; (0, 0): none
    bandwidth: tuple[float, float]  # bytes a second
    load: tuple[float, float]
    performance: tuple[float, float]
    holds: float  # how likely a replica comes to lie there, beside the others


SORTS = {
    "node": Sort(0.6, (400, 4000), (0.010, 0.030), (0, 0), (10 * GBIT, 40 * GBIT), (0.65, 0.92), (0.7, 1.3), 1.0),
    "campus": Sort(0.25, (100, 600), (0.004, 0.015), (0, 0), (1 * GBIT, 10 * GBIT), (0.4, 0.9), (0.5, 1.2), 0.15),
    "cloud": Sort(0.15, (2000, 8000), (0.035, 0.060), (0.05, 0.09), (20 * GBIT, 40 * GBIT), (0, 0.3), (0.8, 1.4), 0.3),
}


def federation(sites: int, seed: int) -> Federation:
    """Sizes differ, seeds too: everything is drawn anew."""
    draw = np.random.default_rng([seed, sites, 1])
    found = [_site(i, sort, draw) for i, sort in enumerate(_sorts(sites, draw))]
    links = [_link(site, SORTS[site.name.split("-")[1]], draw) for site in found]
    network = Network(bandwidth=20 * GBIT, reach=1500.0, spread=0.6, seed=seed)  # the fall and the spread are assumed
    return Federation(
        name=f"{sites} sites, seed {seed}", seed=seed, sites=tuple(found), links=tuple(links), network=network,
        data=_data(found, draw),
    )  # fmt: skip


def _sorts(sites: int, draw: Generator) -> list[str]:
    """At least one of each."""
    counts = {name: max(1, round(sort.share * sites)) for name, sort in SORTS.items()}
    counts["node"] = sites - counts["campus"] - counts["cloud"]
    return [str(name) for name in draw.permutation([name for name, count in counts.items() for _ in range(count)])]


def _site(number: int, sort: str, draw: Generator) -> Site:
    kind = SORTS[sort]
    city, country, latitude, longitude = CITIES[number % len(CITIES)]
    aside = draw.normal(0, 0.0 if number < len(CITIES) else 3.0, 2)  # degrees: a further site of the same region
    cores = round(_even(kind.cores, draw))
    speed = _even(kind.performance, draw)
    ours = draw.random() < 0.5  # assumed: half of the sites speak our additions
    large = max(1, round(cores * draw.uniform(0.02, 0.12)))
    return Site(
        name=f"{city}-{sort}-{number}",
        country=country,
        latitude=float(np.clip(latitude + aside[0], -80, 80)),
        longitude=float((longitude + aside[1] + 180) % 360 - 180),
        cores=cores,
        price=round(_even(kind.price, draw), 5),
        performance=round(speed * exp(draw.normal(0, 0.15)), 3) if ours else None,
        storages=(StorageElement(name=f"{city}-{sort}-{number}".upper()),),
        cache=20e12 if sort != "campus" else 5e12,
        shows_cache=ours,
        incoming=(width := _even(kind.bandwidth, draw)),
        outgoing=width,
        background=Background(load=draw.uniform(*kind.load), cores=large, duration=_even((2 * HOUR, 8 * HOUR), draw)),
        truth=Truth(  # all assumed
            waiting=float(np.clip(exp(draw.normal(log(0.8), 0.6)), 0.15, 3.0)),
            noise=0.4,
            startup=_even((20.0, 1800.0), draw),
            performance=speed,
            jitter=0.1,
            price=float(np.clip(exp(draw.normal(log(1.05), 0.2)), 0.7, 2.0)),
            prefetch=bool(draw.random() < 0.5),
        ),
    )


def _link(site: Site, sort: Sort, draw: Generator) -> Link:
    """What operators write: the width of the door, a quarter of it on a bad day, and the price out."""
    price = _even(sort.egress, draw) if sort.egress[1] else 0.0
    return Link(
        source=site.storages[0].name, target="*", bandwidth=site.outgoing, bandwidth_low=site.outgoing / 4,
        latency=0.1, concurrency=20, price=round(price, 4),
    )  # fmt: skip


def _data(sites: list[Site], draw: Generator) -> tuple[DataSet, ...]:
    """Sizes are log-normal, a mean of 0.6 TB; one to three replicas. Which is popular, the stream says."""
    chances = np.array([SORTS[site.name.split("-")[1]].holds for site in sites])
    chances /= chances.sum()
    found = []
    for number in range(200):
        copies = min(int(draw.choice([1, 2, 3], p=[0.4, 0.4, 0.2])), len(sites))
        places = draw.choice(len(sites), copies, replace=False, p=chances)
        size = float(np.clip(exp(draw.normal(log(2e11), 1.5)), 1e9, 2e13))
        names = tuple(sorted(sites[i].storages[0].name for i in places))
        found.append(DataSet(name=f"set-{number}", bytes=round(size), files=max(1, round(size / 5e9)), replicas=names))
    return tuple(found)


def stream(federation: Federation, warmup: int, judged: int, seed: int) -> Stream:
    """300 requests a day, which read some 180 TB, whatever the size of the federation: the published order of
    magnitude. Those before, of which experience comes, fill one day. Popularity goes by Zipf (assumed, exponent 1)."""
    draw = np.random.default_rng([seed, len(federation.sites), 2])
    gaps = np.concatenate([draw.exponential(DAY / max(warmup, 300), warmup), draw.exponential(DAY / 300, judged)])
    times = DAY / 2 + np.cumsum(gaps)
    weights = 1 / np.arange(1, len(federation.data) + 1)
    popular = draw.permutation(len(federation.data))
    least = min(site.cores for site in federation.sites)
    requests = []
    for at in times:
        kind = int(draw.random() < 0.4)
        names = draw.choice(popular, int(draw.choice([0, 1, 2], p=[0.1, 0.7, 0.2])), False, weights / weights.sum())
        requests.append(
            Request(
                at=round(float(at), 3),
                kind=KINDS[kind],
                cores=min(int(2 ** draw.integers(0, 7)), least),
                duration=round(_even((0.5 * HOUR, 24 * HOUR), draw)),
                share=round(_even(((0.15, 0.9), (0.4, 1.0))[kind], draw), 4),
                data=tuple(federation.data[i].name for i in sorted(names)),
            )
        )
    return Stream(name=f"{federation.name}: {warmup} + {judged}", warmup=warmup, requests=tuple(requests))


def _even(range_: tuple[float, float], draw: Generator) -> float:
    """Between the two, evenly over the logarithm; over the value where the lower is nothing."""
    low, high = range_
    return float(exp(draw.uniform(log(low), log(high)))) if low > 0 else float(draw.uniform(low, high))
