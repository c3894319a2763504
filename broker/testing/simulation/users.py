"""People who ask, accept, change their minds, hang up and come back. Imports the services' types.

Each writes down what was asked and what was told. Nobody sleeps in hope: whoever is told to come back does so after
the seconds that were named, at whatever replica lives then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from random import Random
from typing import Any, Protocol
from uuid import UUID

import msgspec

from broker.domain import kinds
from broker.domain.identity import Caller, Hop, Owner, new_set
from broker.errors import BrokerError, Conflict, NotAllowed, NotFound, Unavailable
from broker.services.doubts import Doubt
from broker.services.keys import Once
from broker.services.offers import AT_ONCE, How, SetState
from broker.services.sessions import SessionState
from broker.testing.bench import phase, request
from broker.testing.simulation.history import History
from broker.testing.simulation.replicas import Caller as Connection
from broker.testing.simulation.replicas import Gone, Life, Services
from broker.testing.simulation.sites import SECRET, Site
from broker.testing.simulation.weather import Weather

PATIENCE = 200.0  # seconds after which a user's call should long have ended
TRIES = 6

Act = Callable[[Services], Awaitable[SetState | SessionState]]


class Town(Protocol):
    """What people see of the world."""

    random: Random
    weather: Weather
    history: History
    sites: Mapping[str, Site]

    async def open(self) -> Life:
        """A replica that takes calls, whichever; waits until there is one."""


class Person:
    def __init__(self, name: str, town: Town) -> None:
        self.name, self.town = name, town
        self.caller = Caller(Owner("here", name), name)
        self.sets: list[UUID] = []
        self._drawn = 0

    # ── what they do ─────────────────────────────────────────────────────────────────────────────────────────

    async def live(self) -> None:
        """One story after the other."""
        stories = (self.take_the_best, self.take_two_at_once, self.ask_twice_at_once, self.go_direct, self.look_on)
        await asyncio.sleep(self.town.random.uniform(0.0, 15.0))
        for _ in range(self.town.random.choice((1, 1, 2))):
            await self.town.random.choice((*stories, self.take_the_best))()
            await asyncio.sleep(self.town.random.uniform(0.0, 10.0))

    async def take_the_best(self) -> None:
        """Ask, take the first, hear it again; perhaps cancel it, or have turned another down before."""
        state = await self.ask()
        offers = _open(state)
        if not offers:
            return
        await asyncio.sleep(self.town.random.choice((0.0, 1.0, 15.0, 45.0, self._until_the_end(state, offers[0]))))
        if self._chance(0.3):
            await self.change(offers[-1], "REJECTED")
        told = await self.change(offers[0], "ACCEPTED", keyed=self._chance(0.5))
        if self._chance(0.5):
            await self.change(offers[0], "ACCEPTED")
        if told is None and len(offers) > 1:
            await self.change(offers[1], "ACCEPTED")
        if self._chance(0.3):
            await asyncio.sleep(self.town.random.uniform(0.0, 20.0))
            await self.change(offers[0], "CANCELLED")
        await self.read(state)

    async def take_two_at_once(self) -> None:
        """Two offers of one set at the same moment, at whatever replicas."""
        state = await self.ask()
        offers = _open(state)
        if offers:
            await self._both(self.change(offers[0], "ACCEPTED"), self.change(offers[-1], "ACCEPTED"))
            await self.read(state)

    async def ask_twice_at_once(self) -> None:
        """One question with one key, twice at the same moment; then again."""
        key = self._key()
        name = f"{self.name}-{key}"
        await self._both(self.ask(key=key, name=name), self.ask(key=key, name=name))
        state = await self.ask(key=key, name=name)
        offers = _open(state)
        if offers:
            await self.change(offers[0], "ACCEPTED", keyed=True)

    async def go_direct(self) -> None:
        key = self._key() if self._chance(0.7) else None
        name = f"{self.name}-{key or 'direct'}"
        await self.direct(key, name)
        if key is not None and self._chance(0.5):
            await self.direct(key, name)

    async def look_on(self) -> None:
        """Ask without waiting, follow what comes, and take one of it."""
        state = await self.ask(later=True)
        if state is None:
            return
        following = asyncio.get_running_loop().create_task(self.follow(state.uuid))
        await asyncio.sleep(self.town.random.uniform(2.0, 15.0))
        state = await self.read(state)
        offers = _open(state)
        if offers:
            await self.change(offers[0], "ACCEPTED")
        await asyncio.sleep(self.town.random.uniform(0.0, 30.0))
        following.cancel()
        await asyncio.wait([following])

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, *, key: str | None = None, name: str = "", later: bool = False) -> SetState | None:
        wanted = request(
            executable={"kind": kinds.DOCKER_CONTAINER, "meta": {"name": name or f"{self.name}-{self._key()}"},
                        "environment": {"TOKEN": SECRET}},
            preferences=self._preferences(),
        )  # fmt: skip
        how = How(later=True) if later else AT_ONCE

        async def act(here: Services) -> SetState:
            if key is None:
                return await here.offers.ask(wanted, self.caller, Hop(), how)
            once = Once(self.caller, "POST /requests", key, name.encode(), _drawn(self.town.random))
            return await here.keys.once(
                once,
                lambda uuid: here.offers.ask(wanted, self.caller, Hop(), msgspec.structs.replace(how, set=uuid)),
                lambda uuid: here.offers.get(uuid, self.caller),
            )

        state = await self.call("ask", act, key=key, later=later, name=name)
        if not isinstance(state, SetState):
            return None
        self.sets.append(state.uuid)
        return state

    async def direct(self, key: str | None, name: str) -> None:
        wanted = request(
            executable={"kind": kinds.DOCKER_CONTAINER, "meta": {"name": name}},
            preferences=self._preferences(),
        )

        async def act(here: Services) -> SessionState:
            if key is None:
                return await here.acceptance.direct(wanted, self.caller, Hop())
            once = Once(self.caller, "POST /direct", key, name.encode(), _drawn(self.town.random))
            return await here.keys.once(
                once,
                lambda uuid: here.acceptance.direct(wanted, self.caller, Hop(), How(set=uuid)),
                lambda uuid: here.acceptance.directed(uuid, self.caller),
            )

        state = await self.call("direct", act, key=key, name=name)
        if isinstance(state, SessionState):
            self.sets.append(state.record.uuid)

    async def change(self, uuid: UUID, to: str, *, keyed: bool = False) -> SessionState | None:
        """None: it was told no, or never told."""
        key = self._key() if keyed else None

        async def act(here: Services) -> SessionState:
            if key is None:
                return await here.acceptance.update(uuid, phase(to), self.caller)
            asked = uuid.bytes + to.encode()
            return await here.keys.once(
                Once(self.caller, "POST /sessions", key, asked, uuid, repeatable=True),
                lambda mine: here.acceptance.update(mine, phase(to), self.caller),
                lambda mine: here.sessions.get(mine, self.caller),
            )

        state = await self.call(f"→ {to}", act, session=uuid, key=key)
        return state if isinstance(state, SessionState) else None

    async def read(self, state: SetState | None) -> SetState | None:
        if state is None:
            return None
        read = await self.call("read", lambda here: here.offers.get(state.uuid, self.caller), set=state.uuid)
        return read if isinstance(read, SetState) else None

    async def follow(self, set_: UUID) -> None:
        """Until the set is over, or the connection breaks off; every state that comes is told."""
        life = await self.town.open()
        number = self.town.history.invoke(self.name, "follow", set=set_, at=life.name)

        async def act(here: Services) -> SetState:
            changes = await here.events.follow_set(set_, self.caller, None)
            if changes is not None:
                async with aclosing(changes):
                    async for change in changes:
                        if change is not None:
                            seen = self.town.history.invoke(self.name, "is told", at=life.name, of=number)
                            self.town.history.end(seen, self.name, "ok", "is told", _phases(change.state))
            return await here.offers.get(set_, self.caller)

        try:
            await life.serve(act, Connection(None), 10 * PATIENCE)
        except (BrokerError, Gone) as error:
            self.town.history.end(number, self.name, "info", "follow", why=str(error))
        except asyncio.CancelledError:
            self.town.history.end(number, self.name, "info", "follow", why="away")
            raise
        else:
            self.town.history.end(number, self.name, "ok", "follow")

    async def call(self, what: str, act: Act, **detail: Any) -> SetState | SessionState | None:
        """Send it, and again where the answer says that it may be, or where there was none."""
        for attempt in range(TRIES):
            state, again = await self._once(what, act, detail, attempt)
            if again is None:
                return state
            await asyncio.sleep(again)
        return None

    async def _once(
        self, what: str, act: Act, detail: Mapping[str, Any], attempt: int
    ) -> tuple[SetState | SessionState | None, float | None]:
        """The answer, and after how many seconds to try again; None: not at all."""
        town, random = self.town, self.town.random
        life = await town.open()
        left = random.randrange(1, 20) if town.weather.strikes(town.weather.hangs_up) else None
        number = town.history.invoke(self.name, what, at=life.name, **detail)
        try:
            state = await life.serve(act, Connection(left), PATIENCE)
        except Gone as error:
            town.history.end(number, self.name, "info", what, why=str(error))
            return None, random.uniform(0.1, 3.0)
        except Unavailable as error:
            town.history.end(number, self.name, "info", what, why=f"{type(error).__name__}: {error}")
            return None, min(10.0, error.retry_after)
        except Conflict as error:
            town.history.end(number, self.name, "fail", what, why=str(error), error="Conflict")
            return None, 3.0 if "Idempotency-Key" in str(error) else None
        except BrokerError as error:
            town.history.end(number, self.name, "fail", what, why=str(error), error=type(error).__name__)
            return None, None
        town.history.end(number, self.name, "ok", what, _phases(state), **_told(state, detail))
        return state, None

    async def _both(self, *calls: Awaitable[Any]) -> None:
        await asyncio.gather(*calls)

    def _until_the_end(self, state: SetState | None, uuid: UUID) -> float:
        """Seconds until an offer is about to expire."""
        ends = state.record.session(uuid).expires if state is not None else None
        left = ends - state.now if ends is not None and state is not None else 0.0
        return max(0.0, left + self.town.random.uniform(-0.5, 0.1))

    def _preferences(self) -> dict[str, Any]:
        return {"failover": self._chance(0.5), "requote": self.town.random.choice((None, None, 0.0, 0.5, 3.0))}

    def _chance(self, of: float) -> bool:
        return self.town.random.random() < of

    def _key(self) -> str:
        self._drawn += 1
        return f"k{self._drawn}"


class Stranger(Person):
    """Somebody who tries what is not theirs: every call must be refused."""

    def __init__(self, name: str, town: Town, others: list[Person]) -> None:
        super().__init__(name, town)
        self._others = others

    async def live(self) -> None:
        for _ in range(3):
            await asyncio.sleep(self.town.random.uniform(3.0, 20.0))
            sets = [uuid for person in self._others for uuid in person.sets]
            if sets:
                await self._try(self.town.random.choice(sets))

    async def _try(self, set_: UUID) -> None:
        life = await self.town.open()
        if life.bench is None:
            return
        try:
            record = await life.serve(lambda here: here.record(set_), Connection(None), PATIENCE)
        except (BrokerError, Gone):
            return
        target = self.town.random.choice(record.sessions).uuid if record.sessions else set_
        to = self.town.random.choice(("ACCEPTED", "REJECTED", "CANCELLED"))
        attempts: tuple[tuple[str, Act], ...] = (
            ("tries to read", lambda here: here.offers.get(set_, self.caller)),
            ("tries to read", lambda here: here.sessions.get(target, self.caller)),
            (f"tries → {to}", lambda here: here.acceptance.update(target, phase(to), self.caller)),
        )
        what, act = self.town.random.choice(attempts)
        number = self.town.history.invoke(self.name, what, at=life.name, session=target)
        try:
            await life.serve(act, Connection(None), PATIENCE)
        except (NotFound, NotAllowed) as error:
            self.town.history.end(number, self.name, "fail", what, error=type(error).__name__)
        except (BrokerError, Gone) as error:
            self.town.history.end(number, self.name, "info", what, why=str(error))
        else:
            self.town.history.end(number, self.name, "ok", what)


class Operator(Person):
    """Looks at the sites how doubtful acceptances ended, and says what is seen there: never anything else."""

    def __init__(self, name: str, town: Town) -> None:
        super().__init__(name, town)
        self.caller = Caller(Owner("here", name), name, frozenset({"user", "operator"}))

    async def live(self) -> None:
        for _ in range(self.town.random.choice((0, 5, 25))):
            await asyncio.sleep(self.town.random.uniform(0.5, 5.0))
            await self.see_to_all()

    async def see_to_all(self, *, but_for: Callable[[Doubt], bool] = lambda _: False) -> None:
        """`but_for`: those that are left alone."""
        for doubt in await self._doubts():
            if but_for(doubt):
                continue
            taken = self.town.sites[doubt.site].looked_up(doubt.handle, withdraw=self._chance(0.5))
            if taken is None:
                continue
            times = self.town.random.choice((1, 1, 1, 2))
            await self._both(*(self.decide(doubt.session, taken) for _ in range(times)))
            if self._chance(0.2):
                await self.decide(doubt.session, taken)

    async def decide(self, uuid: UUID, taken: bool) -> None:
        await self.call(
            "decides",
            lambda here: here.doubts.decide(uuid, taken, "seen there", self.caller),
            session=uuid,
            taken=taken,
        )

    async def _doubts(self) -> Sequence[Doubt]:
        life = await self.town.open()
        try:
            return await life.serve(lambda here: here.doubts.list(self.caller), Connection(None), PATIENCE)
        except (BrokerError, Gone):
            return ()


def _drawn(random: Random) -> UUID:
    return new_set(random.randbytes(16))


def _open(state: SetState | None) -> list[UUID]:
    """What can be taken of it, best first."""
    if state is None:
        return []
    free = {item.uuid for item in state.record.open_sessions(state.now)}
    return [uuid for ranked in state.ranking if (uuid := UUID(ranked.session)) in free]


def _phases(state: SetState | SessionState) -> dict[UUID, str]:
    """What the answer shows: of a set all its sessions, of a session itself."""
    if isinstance(state, SetState):
        return {item.uuid: item.phase for item in state.record.sessions}
    return {state.item.uuid: state.item.phase}


def _told(state: SetState | SessionState, detail: Mapping[str, Any]) -> dict[str, Any]:
    return {**detail, "set": state.record.uuid, "record": state.record}
