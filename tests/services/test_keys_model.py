"""Whatever workers do with Idempotency-Keys, and wherever they die: one key makes one thing, and says so for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import rule

from broker.domain.identity import aggregate, new_set
from broker.errors import BrokerError, Conflict, KeyReused, NotFound, TooMany, Unavailable
from broker.ports import Store
from broker.services.keys import HOLD, KEPT, TIMER, Keys, Once
from broker.store.redis import open_redis
from broker.store.redis_nodes import parse
from broker.store.sqlite import open_sqlite
from broker.testing.bench import ADA
from broker.testing.executor import InlineExecutor
from broker.testing.machines import Machine, drive
from broker.testing.tripwire import Died, Tripwire

KEYS = st.sampled_from(("k", "k", "l"))
ASKED = st.sampled_from((b"this", b"this", b"this", b"that"))
CLIENT = st.sampled_from((0, 1))
FAULTS = st.sampled_from(("fails before", "fails after", "dies before", "dies after"))
LATER = st.sampled_from((0.0, 1.0, HOLD))

Told = UUID | BrokerError | None


class Known(msgspec.Struct):
    """What must hold of a key. `uuid`: what was made with it; `asked`: what it was made for; `held`: until then a
    worker that died may hold it; `left`: what those asked who died."""

    uuid: UUID | None = None
    asked: bytes = b""
    held: float = 0.0
    left: set[bytes] = msgspec.field(default_factory=set)


class KeysMachine(Machine):
    """Override `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.sent = 0
        self.stores = [self.run(self.open(client)) for client in (0, 1)]

    async def open(self, client: int) -> Store:
        raise NotImplementedError("open the store for that client")

    async def ended(self) -> None:
        for store in self.stores:
            await store.close()

    def once(self, key: str, asked: bytes) -> Once:
        self.sent += 1
        return Once(ADA, "POST /requests", key, asked, new_set(self.sent.to_bytes(16)))

    def acting(self, store: Store, key: str, asked: bytes, fault: str = "") -> Callable[[UUID], Awaitable[UUID]]:
        """Makes an aggregate as an act would, and ends as `fault` says before it or after it."""

        async def act(uuid: UUID) -> UUID:
            if fault.endswith("before"):
                raise Died if fault.startswith("dies") else TooMany("nothing was made.")
            for _ in range(4):  # takes its time: others send the same meanwhile
                await store.read(aggregate(uuid))
            known = self.known[key]
            assert known.uuid in (None, uuid), "one key made two things"
            assert await store.write(aggregate(uuid), 0, b"made"), "one thing was made twice"
            known.uuid, known.asked = uuid, asked
            if fault.endswith("after"):
                raise Died if fault.startswith("dies") else Unavailable("it was made, and nobody heard.")
            return uuid

        return act

    def showing(self, store: Store) -> Callable[[UUID], Awaitable[UUID]]:
        async def show(uuid: UUID) -> UUID:
            if await store.read(aggregate(uuid)) is None:
                raise NotFound("not there.")
            return uuid

        return show

    async def send(self, who: int, key: str, asked: bytes, fault: str = "", wire: Tripwire | None = None) -> Told:
        """What the sender hears; nothing from one who died."""
        store = self.stores[who]
        keys = Keys(wire.behind(store) if wire else store, self.clock)
        known = self.known.setdefault(key, Known())
        try:
            return await keys.once(self.once(key, asked), self.acting(store, key, asked, fault), self.showing(store))
        except BrokerError as error:
            return error
        except Died:
            known.held = self.clock.now() + HOLD
            known.left.add(asked)
            return None

    # ── what may happen ──────────────────────────────────────────────────────────────────────────────────────

    @rule(who=CLIENT, key=KEYS, asked=ASKED, seconds=LATER)
    def is_sent(self, who: int, key: str, asked: bytes, seconds: float) -> None:
        self.clock.advance(seconds)
        told = self.run(self.send(who, key, asked))
        known = self.known[key]
        if isinstance(told, UUID):
            assert (told, asked) == (known.uuid, known.asked)
        elif isinstance(told, KeyReused):
            assert ({known.asked} if known.uuid else known.left) - {asked}, "nothing else was asked"
        else:
            assert isinstance(told, Conflict)
            assert self.clock.now() < known.held, "nobody is at it"

    @rule(key=KEYS, asked=ASKED, times=st.integers(2, 4))
    def is_sent_many_times_at_once(self, key: str, asked: bytes, times: int) -> None:
        told = self.together(*(self.send(n % 2, key, asked) for n in range(times)))
        known = self.known[key]
        assert {one for one in told if isinstance(one, UUID)} <= {known.uuid}
        if self.clock.now() >= known.held and known.asked == asked:
            assert known.uuid in told

    @rule(who=CLIENT, key=KEYS, asked=ASKED, fault=FAULTS)
    def ends_badly(self, who: int, key: str, asked: bytes, fault: str) -> None:
        """In the act."""
        self.run(self.send(who, key, asked, fault))

    @rule(who=CLIENT, key=KEYS, asked=ASKED, at=st.integers(0, 4), after=st.booleans())
    def dies(self, who: int, key: str, asked: bytes, at: int, after: bool) -> None:
        """At a call to the store, or after it."""
        self.run(self.send(who, key, asked, wire=Tripwire(at, after=after)))

    @rule()
    def the_day_is_over(self) -> None:
        self.clock.advance(KEPT + HOLD)
        for lease in self.run(self.stores[0].claim(100, 60.0)):
            assert lease.key == TIMER
            self.run(Keys(self.stores[0], self.clock).forget(lease.aggregate))
        self.known.clear()


class SqliteMachine(KeysMachine):
    async def open(self, client: int) -> Store:
        """Both are the one process that may write to such a file."""
        self.only = getattr(self, "only", None) or await open_sqlite(
            self.folder / "store.db", self.clock, executor=InlineExecutor()
        )
        return self.only


class RedisMachine(KeysMachine):
    async def open(self, client: int) -> Store:
        return await open_redis(parse(self.url), self.clock)


def test_in_sqlite() -> None:
    drive(SqliteMachine, examples=200)


def test_in_redis(redis_url: str) -> None:
    drive(RedisMachine, redis_url, examples=60)
