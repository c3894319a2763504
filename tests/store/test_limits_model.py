"""Whatever two replicas do to rates and caps, in whatever order, they hold what a few numbers in memory hold."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from broker.ports import Limits
from broker.store.redis_limits import RedisLimits
from broker.store.redis_nodes import Nodes
from broker.store.sqlite import SqliteStore
from broker.testing.machines import Machine, RedisClients, SqliteClients, drive
from broker.testing.memory import MemoryLimits

KEYS = ("k", "ö/l")
MEMBERS = ("a", "b", "c", "ü")
KEY, MEMBER, CLIENT = st.sampled_from(KEYS), st.sampled_from(MEMBERS), st.sampled_from((0, 1))
# Times from a few, so that one often outlasts another. Steps of a quarter of a second, and rates whose tokens come
# on such steps: then all is exact.
CEILING, SECONDS = st.integers(0, 3), st.sampled_from((10, 20, 40, -5))
RATE, BURST = st.sampled_from((0.25, 0.5, 1.0, 2.0, 4.0)), st.integers(1, 4)


class LimitsMachine(Machine):
    """Override `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.full: dict[str, float] = {}  # when each bucket will be full again
        self.caps: dict[str, dict[str, float]] = {key: {} for key in KEYS}  # member → until
        self.clients = [self.run(self.open(client)) for client in (0, 1)]

    async def open(self, client: int) -> Limits:
        raise NotImplementedError("open limits of that client, closing those that it had")

    # ── rates ────────────────────────────────────────────────────────────────────────────────────────────────

    def taken(self, key: str, rate: float, burst: int) -> float:
        """What `take` answers by the model, which takes it."""
        now = self.clock.now()
        full = min(max(now, self.full.get(key, now)), now + burst / rate)
        wait = full + 1 / rate - (now + burst / rate)
        self.full[key] = full if wait > 0 else full + 1 / rate
        return max(0.0, wait)

    @rule(who=CLIENT, key=KEY, rate=RATE, burst=BURST)
    def take(self, who: int, key: str, rate: float, burst: int) -> None:
        wait = self.run(self.clients[who].take(key, rate, burst))
        assert wait == pytest.approx(self.taken(key, rate, burst), abs=1e-5)

    @rule(key=KEY, rate=RATE, burst=BURST, times=st.integers(2, 9))
    def many_take_at_once(self, key: str, rate: float, burst: int, times: int) -> None:
        waits = self.together(*(self.clients[n % 2].take(key, rate, burst) for n in range(times)))
        assert sorted(waits) == pytest.approx(sorted(self.taken(key, rate, burst) for _ in range(times)), abs=1e-5)

    # ── caps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def live(self, key: str) -> dict[str, float]:
        now = self.clock.now()
        self.caps[key] = {member: until for member, until in self.caps[key].items() if until > now}
        return self.caps[key]

    @rule(who=CLIENT, key=KEY, member=MEMBER, ceiling=CEILING, seconds=SECONDS)
    def enter(self, who: int, key: str, member: str, ceiling: int, seconds: int) -> None:
        live, until = self.live(key), self.clock.now() + seconds
        room = member in live or len(live) < ceiling
        assert self.run(self.clients[who].enter(key, member, ceiling, until)) == room
        if room:
            live[member] = max(until, live.get(member, until))

    @rule(key=KEY, ceiling=CEILING, seconds=SECONDS.filter(lambda seconds: seconds > 0))
    def all_enter_at_once(self, key: str, ceiling: int, seconds: int) -> None:
        live, until = self.live(key), self.clock.now() + seconds
        outside = [member for member in MEMBERS if member not in live]
        room = min(len(outside), max(0, ceiling - len(live)))
        entered = self.together(
            *(self.clients[n % 2].enter(key, member, ceiling, until) for n, member in enumerate(outside))
        )
        assert entered.count(True) == room
        live.update((member, until) for member, done in zip(outside, entered, strict=True) if done)

    @rule(who=CLIENT, key=KEY, member=MEMBER)
    def leave(self, who: int, key: str, member: str) -> None:
        self.run(self.clients[who].leave(key, member))
        self.caps[key].pop(member, None)

    # ── time, and who is there ───────────────────────────────────────────────────────────────────────────────

    @rule(quarters=st.sampled_from((1, 2, 4, 8, 40, 80)))
    def time_passes(self, quarters: int) -> None:
        self.clock.advance(quarters / 4)

    @rule(who=CLIENT)
    def reconnect(self, who: int) -> None:
        self.clients[who] = self.run(self.open(who))

    @invariant()
    def both_see_who_is_in(self) -> None:
        for key in KEYS:
            for limits in self.clients:
                assert self.run(limits.members(key)) == self.live(key).keys()


class MemoryMachine(LimitsMachine):
    async def open(self, client: int) -> Limits:
        self.only = getattr(self, "only", None) or MemoryLimits(self.clock)
        return self.only


class SqliteMachine(SqliteClients[Limits], LimitsMachine):
    def of(self, store: SqliteStore) -> Limits:
        return store.limits


class RedisMachine(RedisClients[Limits], LimitsMachine):
    def of(self, nodes: Nodes) -> Limits:
        return RedisLimits(nodes, self.clock)


def test_in_memory() -> None:
    drive(MemoryMachine, examples=60)


def test_in_sqlite() -> None:
    drive(SqliteMachine, examples=20)


@pytest.mark.parametrize("kind", ["redis_url", "cluster_url"])
def test_in_redis(kind: str, request: pytest.FixtureRequest) -> None:
    drive(RedisMachine, request.getfixturevalue(kind), examples=40)
