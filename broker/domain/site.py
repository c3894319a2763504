"""A registered site, and what a planner says of it. Imports the domain's base.

`Registration` is what an operator writes (configuration, PUT /sites/{name}); `Profile` is what the site is found
to be when probed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, field_validator

from broker.domain import kinds
from broker.domain.base import Flag, Model, Natural, Number, Text
from broker.domain.quantities import Duration, Instant

T = TypeVar("T", int, timedelta)
Health = Literal["draft", "live", "degraded", "draining", "down"]
Name = Annotated[Text, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}(?!\n)$")]
Seconds = Annotated[Number, Field(gt=0, le=86400)]


Waiting = Annotated[Number, Field(ge=0, le=30 * 86400)]


class StorageElement(Model):
    """A storage at or near a site: its name (a Rucio RSE's, say) and the URL prefixes that lie on it."""

    model_config = ConfigDict(extra="forbid")

    name: Text = Field(description="as data catalogues call it, such as a Rucio RSE")
    prefixes: tuple[Text, ...] = Field((), description="beginnings of the URLs that lie on it")
    country: Text | None = Field(None, description="ISO 3166-1 alpha-2; for the reader")
    tape: Flag = Field(False, description="files have to be recalled before they can be read")
    recall: tuple[Waiting, Waiting] | None = Field(
        None, description="seconds until a file on it can be read, least and most; means tape"
    )

    @field_validator("recall", mode="before")
    @classmethod
    def _ordered(cls, value: object) -> object:
        if value is None:
            return value
        pair = value if isinstance(value, list | tuple) else ()
        if len(pair) != 2 or not all(isinstance(part, int | float) for part in pair) or pair[0] > pair[1]:
            raise ValueError("two numbers of seconds are wanted, the least before the most, such as [600, 7200]")
        return value


class Link(Model):
    """A way for bytes between two storages. Bandwidth in bytes a second; latency in seconds a file; price of a GB
    (10^9 bytes) out of `source`, in `currency`. `"*"` matches every storage that has no entry of its own."""

    model_config = ConfigDict(extra="forbid")

    source: Text = Field(description='name of a storage, or "*"')
    target: Text = Field(description='name of a storage, or "*"')
    bandwidth: Annotated[Number, Field(gt=0)] = Field(description="bytes a second")
    bandwidth_low: Annotated[Number, Field(gt=0)] | None = Field(None, description="bytes a second on a bad day")
    latency: Annotated[Number, Field(ge=0)] = Field(0.0, description="seconds a file")
    concurrency: Annotated[Natural, Field(ge=1, le=10_000)] = Field(1, description="files at a time, which share it")
    price: Annotated[Number, Field(ge=0)] = Field(0.0, description="money for a GB (10^9 bytes) out of the source")
    currency: Text | None = Field(None, description="of the price; absent: the base currency")


class Registration(Model):
    """One site as its operator describes it."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="the key under `sites`, or the address it is put to; need not be given")
    kind: Text = Field("ivoa", description="which adapter speaks to it (an entry point of the group broker.planners)")
    url: Text | None = Field(None, description="the site's endpoint, where its kind has one")
    options: dict[str, Any] = Field(default_factory=dict, description="the adapter's own settings")
    credentials: Text | None = Field(None, description="name of an entry under `credentials`; sent to this origin only")
    contact: Text | None = Field(None, description="whom to ask about the site")
    country: Annotated[Text, Field(pattern=r"^[A-Z]{2}(?!\n)$")] | None = Field(None, description="ISO 3166-1 alpha-2")
    storages: tuple[StorageElement, ...] = Field((), description="the storages at the site")
    writes: tuple[Text, ...] = Field(
        (),
        description="what the site can write results to, schemes or beginnings of URLs, such as s3://results/; "
        "absent: as it says itself",
    )
    units: dict[str, str] = Field(
        default_factory=lambda: {kinds.ENERGY: "kWh", kinds.CARBON: "kg"},
        description="cost type → unit, where the site's answers state none; money with none is in the base currency",
    )
    unreliable: tuple[Text, ...] = Field(
        (), description="fields of its offers not to be trusted, such as compute.memory (the reference implementation)"
    )
    concurrency: Annotated[Natural, Field(ge=1)] = Field(64, description="calls under way at once")
    calls_per_minute: Annotated[Natural, Field(ge=1)] = Field(6000, description="calls to the site, of all kinds")
    timeout: Seconds = Field(30.0, description="seconds for one call other than asking for offers")
    poll: Seconds = Field(5.0, description="seconds between two looks at the site's running sessions, at least")
    restart_ends_jobs: Flag = Field(False, description="a restart of the site ends its jobs, so 404 is proof")
    enforces_expiry: Flag = Field(
        False, description="it ends its offers itself, so nearly expired ones are not given back"
    )
    room_cores: Annotated[Natural, Field(ge=1)] | None = Field(
        None, description="cores of the whole site; what was just accepted there is counted against them"
    )
    drained: Flag = Field(False, description="asked for nothing new; what runs goes on")
    drained_until: Instant | None = Field(None, description="when draining ends by itself")


class Profile(Model):
    """What a site can do. Absent and empty mean not known, and then the site is asked."""

    platform: Text = "ivoa"
    broker: Text | None = Field(None, description="its broker id, where it is a broker of ours")
    executables: tuple[Text, ...] | None = None
    data: tuple[Text, ...] | None = None
    extras: dict[str, int] = Field(default_factory=dict, description="type → the most one request can have")
    cores: Natural | None = Field(None, description="the most one request can have")
    memory: Natural | None = Field(None, description="GiB, the most one request can have")
    room: Natural | None = Field(None, description="cores of the whole site")
    duration: Duration | None = Field(None, description="the longest run")
    storages: tuple[StorageElement, ...] = ()
    countries: tuple[Text, ...] = ()
    origins: tuple[Text, ...] = Field((), description="the sites at the bottom that it speaks for")
    python: tuple[Text, ...] = Field((), description="Python versions for programs, such as 3.11.7")
    workflows: tuple[Text, ...] = Field((), description="languages of workflows and their versions, such as CWL v1.2")
    installs_requirements: Flag = False
    results: Flag = Field(False, description="hands back what a run writes to ./results")
    reads: tuple[Text, ...] = Field((), description="URL schemes it can stage from")
    writes: tuple[Text, ...] = Field((), description="schemes and beginnings of URLs that it can write results to")
    keeps: Duration | None = Field(None, description="the longest that results stay at it after a run")
    reserves: Flag = Field(False, description="its offers hold capacity; else they are estimates")
    repeatable: Flag = Field(False, description="accepting twice by one session uuid is accepting once")
    batches: Flag = Field(False, description="releases and status take many sessions in one call")
    simulated: Flag = Field(False, description="nothing really runs")
    isolation: Text | None = None
    currency: Text | None = None
    clock_offset: Number = Field(0.0, description="seconds the site's clock is ahead of ours")

    @property
    def ours(self) -> bool:
        """It is a broker or a planner of ours, and knows our additions."""
        return self.broker is not None or self.platform != "ivoa"


def union(profiles: Sequence[Profile]) -> Profile:
    """What can be done where any of them may do it. What one of them does not say is not known of all."""
    extras: dict[str, int] = {}
    for profile in profiles:
        for type_, most in profile.extras.items():
            extras[type_] = max(extras.get(type_, 0), most)
    currencies = {profile.currency for profile in profiles}
    return Profile(
        platform=profiles[0].platform if len(profiles) == 1 else "broker",
        executables=_all(profile.executables for profile in profiles),
        data=_all(profile.data for profile in profiles),
        extras=extras,
        cores=_most(profile.cores for profile in profiles),
        memory=_most(profile.memory for profile in profiles),
        duration=_most(profile.duration for profile in profiles),
        python=_words(profile.python for profile in profiles),
        workflows=_words(profile.workflows for profile in profiles),
        installs_requirements=any(profile.installs_requirements for profile in profiles),
        results=bool(profiles) and all(profile.results for profile in profiles),
        reads=_words(profile.reads for profile in profiles),
        writes=_words(profile.writes for profile in profiles),
        keeps=_most(profile.keeps for profile in profiles),
        reserves=bool(profiles) and all(profile.reserves for profile in profiles),
        repeatable=True,
        batches=True,
        simulated=bool(profiles) and all(profile.simulated for profile in profiles),
        isolation="; ".join(_words((profile.isolation,) for profile in profiles if profile.isolation)) or None,
        currency=currencies.pop() if len(currencies) == 1 else None,
    )


def _words(sets: Iterable[Iterable[str | None]]) -> tuple[str, ...]:
    return tuple(sorted({word for words in sets for word in words if word}))


def _all(sets: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The union; None when one is not known, or there is none."""
    found = list(sets)
    return None if not found or None in found else _words(words or () for words in found)


def _most(values: Iterable[T | None]) -> T | None:
    """The largest; None when one is not known, for then it may be larger."""
    found = list(values)
    known = [value for value in found if value is not None]
    return max(known) if known and len(known) == len(found) else None
