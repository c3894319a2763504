"""A platform made of a queue: submitted at most once, whatever is lost, late, crashed or asked for twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID, uuid4

import msgspec
import pytest

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Capacity, Job, Lost
from adapters.planning.queued import QueuedPlatform
from adapters.planning.starts import BEGUN, ENDED, SETTLED, SUBMITTED, Start, Starts
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.ports import Held, Logs, Result, Sighting
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryCalendar

REQUEST = {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}}
LONG = {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "long"}}
RUN = 600.0  # seconds


class Native(msgspec.Struct):
    """One job as the server has it."""

    session: UUID
    since: float
    long: bool
    ended: float | None = None
    cancelled: bool = False

    def show(self, now: float) -> Sighting:
        if self.cancelled:
            return Sighting("CANCELLED", began=self.since, ended=self.ended)
        if not self.long and now >= self.since + RUN:
            return Sighting("COMPLETED", began=self.since, ended=self.since + RUN, native="7")
        return Sighting("RUNNING", began=self.since, native="7")


class Server:
    """Takes every job that it is given, as often as it is. `landing`: submits under way, by when they arrive."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.jobs: list[Native] = []
        self.landing: list[tuple[float, Job]] = []
        self.forgets = False
        self.ends = 0

    def land(self) -> None:
        now = self.clock.now()
        for _, job in (due := [one for one in self.landing if one[0] <= now]):
            self.jobs.append(Native(job.session, now, job.request.executable.to_wire().get("source") == "long"))
        self.landing = [one for one in self.landing if one not in due]

    def of(self, session: UUID) -> list[Native]:
        self.land()
        return [job for job in self.jobs if job.session == session]


class FakeQueue:
    """A client of the server. `arrives`, `answers`: seconds until a submit is there, and until it is answered; `fault`
    is raised in place of the answer; `refuses` before anything is sent."""

    def __init__(self, server: Server) -> None:
        self._server, self._clock = server, server.clock
        self.arrives = self.answers = 0.0
        self.fault: SiteError | None = None
        self.refuses: SiteError | None = None
        self.blind: SiteError | None = None
        self.deaf: SiteError | None = None

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        return ()

    def preparing(self, request: ExecutionRequest) -> float | None:
        return None

    async def describe(self, deadline: Deadline) -> Profile:
        return Profile(platform="fake", reserves=False)

    async def capacity(self, deadline: Deadline) -> Capacity:
        return Capacity()

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        return None

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        await asyncio.sleep(0)
        if self.blind is not None:
            raise self.blind
        now = self._clock.now()
        found = {job.session: of[0].show(now) for job in jobs if (of := self._server.of(job.session))}
        return {} if self._server.forgets else found

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        if self.refuses is not None:
            raise self.refuses
        self._server.landing.append((self._clock.now() + self.arrives, job))
        await self._clock.sleep(self.answers)
        self._server.land()
        if self.fault is not None:
            raise self.fault
        return Sighting("WAITING", native="7")

    async def end(self, job: Job, deadline: Deadline) -> None:
        if self.deaf is not None:
            raise self.deaf
        self._server.ends += 1
        for native in self._server.of(job.session):
            if native.show(self._clock.now()).phase == "RUNNING":
                native.cancelled, native.ended = True, self._clock.now()

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        self._server.land()
        shown = ((job.session, job.show(self._clock.now()).phase) for job in self._server.jobs)
        return tuple(Held(str(session), phase, session) for session, phase in shown if phase == "RUNNING")

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        return Logs("", "")

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        return ()

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        raise SiteForgot(f"there is no result {name}.")
        yield b""

    async def close(self) -> None: ...


class TestQueuedPlatform(PlatformContract):
    @pytest.fixture
    async def stage(self) -> Stage:
        clock, calendar = FakeClock(), MemoryCalendar()
        server = Server(clock)

        async def pass_time() -> None:
            await asyncio.sleep(0)
            clock.advance(60.0)

        return Stage(
            make=lambda: QueuedPlatform(FakeQueue(server), calendar, "here", clock),
            clock=clock,
            short=REQUEST,
            long=LONG,
            ran=lambda job: len(server.of(job.session)),
            pass_time=pass_time,
        )


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Site:
    """Processes of one site, each with a queue of its own, on one server and one calendar."""

    def __init__(self) -> None:
        self.clock, self.calendar = FakeClock(), MemoryCalendar()
        self.server = Server(self.clock)

    def process(self) -> tuple[QueuedPlatform, FakeQueue]:
        queue = FakeQueue(self.server)
        return QueuedPlatform(queue, self.calendar, "here", self.clock), queue

    def soon(self, seconds: float = 30.0) -> Deadline:
        return Deadline.after(seconds, self.clock.monotonic())

    def job(self) -> Job:
        request = ExecutionRequest.model_validate(REQUEST)
        return Job(uuid4(), "j", Owner("us", "ada"), request, 1, 1, 0, {}, RUN, self.clock.now())

    async def look(self, job: Job) -> Sighting | SiteError:
        return (await self.process()[0].status([job], self.soon()))[job.session]


@pytest.fixture
def site() -> Site:
    return Site()


async def test_a_lost_answer_is_doubt_and_the_job_is_found_not_submitted_again(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.fault = SiteTimeout("no answer")
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    other, _ = site.process()
    assert (await other.start(job, site.soon())).phase == "RUNNING"
    assert len(site.server.of(job.session)) == 1


async def test_while_a_submit_may_still_arrive_nobody_submits_again(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.fault, queue.arrives = SiteTimeout("no answer"), 40.0
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    waiting = await site.look(job)
    assert isinstance(waiting, Sighting)
    assert waiting.phase == "WAITING"
    again = asyncio.create_task(site.process()[0].start(job, site.soon(200.0)))
    for _ in range(60):
        await asyncio.sleep(0)
        site.clock.advance(1.0)
    assert (await again).phase == "RUNNING"
    assert len(site.server.of(job.session)) == 1


async def test_a_submit_that_never_arrived_is_made_again_once_that_is_sure(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.fault, queue.arrives = SiteTimeout("no answer"), 1e9
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    with pytest.raises(SiteTimeout, match="another process"):
        await site.process()[0].start(job, site.soon(0.1))
    site.clock.advance(30.0 + SETTLED + 1.0)
    assert isinstance(await site.look(job), SiteForgot)
    assert (await site.process()[0].start(job, site.soon())).phase == "WAITING"
    assert len(site.server.of(job.session)) == 1


async def test_whoever_takes_over_blindly_raises_no_proof(site: Site) -> None:
    """What cannot be seen may be there: an error that counts as proof would free the offer for another site."""
    job, (platform, queue) = site.job(), site.process()
    queue.fault, queue.arrives = SiteTimeout("no answer"), 1e9
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    site.clock.advance(1000.0)
    other, blind = site.process()
    find, calls = blind.find, 0

    async def seldom(jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise SiteUnreachable("no connection")
        return await find(jobs, deadline)

    blind.find = seldom  # type: ignore[method-assign]
    with pytest.raises(SiteMisbehaved) as caught:
        await other.start(job, site.soon())
    assert not caught.value.proof


async def test_what_was_surely_not_sent_can_be_tried_again_at_once(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.refuses = SiteRefused("no such partition")
    with pytest.raises(SiteRefused):
        await platform.start(job, site.soon())
    assert isinstance(await site.look(job), SiteForgot)
    assert (await site.process()[0].start(job, site.soon())).phase == "WAITING"


async def test_an_end_asked_for_during_the_submit_reaches_the_job(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.arrives, queue.answers = 5.0, 10.0
    starting = asyncio.create_task(platform.start(job, site.soon()))
    await site.clock.asleep()
    assert (await site.process()[0].cancel(job, site.soon())).phase == "WAITING"
    site.clock.advance(10.0)
    await starting
    seen = await site.look(job)
    assert isinstance(seen, Sighting)
    assert seen.phase == "CANCELLED"


async def test_an_end_whose_starter_died_is_made_up_for_by_the_next_look(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.arrives, queue.answers = 5.0, 10.0
    starting = asyncio.create_task(platform.start(job, site.soon()))
    await site.clock.asleep()
    await site.process()[0].cancel(job, site.soon())
    starting.cancel()
    await asyncio.wait([starting])
    site.clock.advance(10.0)
    await site.look(job)  # shows it running, and ends it
    seen = await site.look(job)
    assert isinstance(seen, Sighting)
    assert seen.phase == "CANCELLED"


async def test_what_was_ended_while_it_may_still_arrive_is_not_over(site: Site) -> None:
    """Nobody looks again at what is over: it would run."""
    job, (platform, queue) = site.job(), site.process()
    queue.fault, queue.arrives = SiteTimeout("no answer"), 40.0
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    for seen in (
        await site.process()[0].cancel(job, site.soon()),
        await site.process()[0].cancel(job, site.soon()),
        await site.process()[0].start(job, site.soon()),
        await site.look(job),
    ):
        assert isinstance(seen, Sighting)
        assert seen.phase == "WAITING"
    site.clock.advance(41.0)
    await site.look(job)
    seen = await site.look(job)
    assert isinstance(seen, Sighting)
    assert seen.phase == "CANCELLED"
    assert [native.cancelled for native in site.server.of(job.session)] == [True]


async def test_what_was_ended_and_never_arrived_is_over_once_that_is_sure(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.fault, queue.arrives = SiteTimeout("no answer"), 1e9
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    await platform.cancel(job, site.soon())
    site.clock.advance(30.0 + SETTLED + 1.0)
    assert await site.look(job) == await platform.start(job, site.soon())
    assert (await platform.start(job, site.soon())).phase == "CANCELLED"


async def test_a_submit_that_was_refused_after_its_end_was_asked_for_is_over_at_once(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    begun = asyncio.Event()

    async def submit(job: Job, deadline: Deadline) -> Sighting:
        begun.set()
        await site.clock.sleep(5.0)
        raise SiteRefused("no such partition")

    queue.submit = submit  # type: ignore[method-assign]
    starting = asyncio.create_task(platform.start(job, site.soon()))
    await begun.wait()
    assert (await site.process()[0].cancel(job, site.soon())).phase == "WAITING"
    await site.clock.asleep()
    site.clock.advance(5.0)
    with pytest.raises(SiteRefused):
        await starting
    seen = await site.look(job)
    assert isinstance(seen, Sighting)
    assert seen.phase == "CANCELLED"


async def test_a_look_that_is_refused_is_no_refusal_of_the_job(site: Site) -> None:
    """Of a job that was refused the planner says that it failed, for good."""
    job, (platform, queue) = site.job(), site.process()
    queue.blind = SiteRefused("the proxy answered 404", status=404)
    with pytest.raises(SiteUnreachable):
        await platform.start(job, site.soon())


@pytest.mark.parametrize("over", [False, True])
async def test_a_look_that_fails_while_another_submits_is_no_proof(site: Site, over: bool) -> None:
    job, (platform, queue) = site.job(), site.process()
    if over:
        await platform.start(job, site.soon())
    else:
        queue.fault, queue.arrives = SiteTimeout("no answer"), 1e9
        with pytest.raises(SiteTimeout):
            await platform.start(job, site.soon())
    other, blind = site.process()
    blind.blind = SiteUnreachable("no connection")
    with pytest.raises(SiteMisbehaved):
        await other.start(job, site.soon())


async def test_what_may_have_run_and_been_forgotten_is_not_started_anew(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.fault = SiteTimeout("no answer")
    with pytest.raises(SiteTimeout):
        await platform.start(job, site.soon())
    site.clock.advance(2 * 3600.0)  # a night without a broker
    site.server.forgets = True
    assert isinstance(await site.look(job), Lost)
    with pytest.raises(Lost):
        await site.process()[0].start(job, site.soon())
    assert len(site.server.of(job.session)) == 1


async def test_an_end_that_the_platform_does_not_hear_is_asked_for_again(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    await platform.start(job, site.soon())
    queue.deaf = SiteUnreachable("no connection")
    with pytest.raises(SiteUnreachable):
        await platform.cancel(job, site.soon())
    await site.look(job)
    seen = await site.look(job)
    assert isinstance(seen, Sighting)
    assert seen.phase == "CANCELLED"


async def test_what_the_platform_had_and_does_not_show_is_not_started_anew(site: Site) -> None:
    job, (platform, _) = site.job(), site.process()
    await platform.start(job, site.soon())
    site.server.forgets = True
    assert isinstance(await site.look(job), SiteBusy)
    with pytest.raises(SiteForgot):
        await site.process()[0].start(job, site.soon())
    with pytest.raises(SiteForgot):
        await site.process()[0].cancel(job, site.soon())
    assert len(site.server.of(job.session)) == 1


async def test_a_run_is_not_lost_where_its_start_cannot_be_noted(site: Site) -> None:
    job, (platform, queue) = site.job(), site.process()
    queue.answers = 1.0
    starting = asyncio.create_task(platform.start(job, site.soon()))
    await site.clock.asleep()
    site.calendar.broken = True
    site.clock.advance(1.0)
    assert (await starting).phase == "WAITING"
    site.calendar.broken = False
    assert (await site.process()[0].start(job, site.soon())).phase == "RUNNING"


async def test_nothing_is_submitted_that_cannot_be_noted_before(site: Site) -> None:
    job, (platform, _) = site.job(), site.process()
    site.calendar.broken = True
    with pytest.raises(SiteUnreachable):
        await platform.start(job, site.soon())
    assert not site.server.landing
    assert not site.server.jobs


async def test_starts_are_known_as_long_as_they_matter() -> None:
    clock = FakeClock()
    starts, one, two = Starts(MemoryCalendar(), "here", clock), uuid4(), uuid4()
    assert await starts.begin(one, 30.0) is None
    assert await starts.begin(one, 30.0) == Start(BEGUN, True)
    assert await starts.submitted(one)
    assert await starts.begin(one, 30.0) == Start(SUBMITTED, False)
    await starts.withdraw(one)  # of what was submitted nothing is taken back
    assert await starts.end(two) is None
    assert await starts.begin(two, 30.0) == Start(ENDED, False)
    assert not await starts.submitted(two)
    assert {session: start.word for session, start in (await starts.read([one, two])).items()} == {
        one: SUBMITTED,
        two: ENDED,
    }
    clock.advance(3601.0)
    assert (await starts.read([one]))[one] == Start(SUBMITTED, False, True)
    clock.advance(86400.0)
    assert not await starts.read([one, two])


async def test_only_whose_right_it_is_gives_it_back() -> None:
    clock = FakeClock()
    starts, one = Starts(MemoryCalendar(), "here", clock), uuid4()
    assert await starts.begin(one, 30.0, 1.0) is None
    clock.advance(30.0 + SETTLED + 1.0)
    assert await starts.begin(one, 30.0, 2.0) == Start(BEGUN, False)
    await starts.withdraw(one, 1.0)  # of somebody who slept meanwhile
    assert await starts.begin(one, 30.0, 3.0) == Start(BEGUN, True)
    await starts.withdraw(one, 2.0)
    assert await starts.begin(one, 30.0, 3.0) is None


# ── by chance ────────────────────────────────────────────────────────────────────────────────────────────────────


class History:
    """Processes that start, look at and end one job, crash at any moment, and a server that hears late or loses its
    answers."""

    def __init__(self, seed: int) -> None:
        self.random, self.site = random.Random(seed), Site()
        self.job, self.tasks = self.site.job(), list[asyncio.Task[object]]()
        self.ended_before = False  # CANCELLED was said while there was no job

    def act(self) -> None:
        platform, queue = self.site.process()
        queue.arrives, queue.answers = self.random.choice([0.0, 5.0, 45.0]), self.random.choice([0.0, 2.0, 20.0])
        queue.fault = self.random.choice([None, None, SiteTimeout("lost")])
        act = self.random.choices([platform.start, platform.cancel, self._look], [6, 1, 3])[0]
        self.tasks.append(asyncio.create_task(self._do(act)))

    async def _look(self, job: Job, deadline: Deadline) -> None:
        await self.site.look(job)

    async def _do(self, act: object) -> None:
        try:
            seen = await act(self.job, self.site.soon())  # type: ignore[operator]
        except SiteError:
            return
        if isinstance(seen, Sighting) and seen.phase == "CANCELLED" and not self.site.server.of(self.job.session):
            self.ended_before = True

    async def run(self) -> None:
        for _ in range(30):
            self.act()
            for _ in range(self.random.randrange(12)):
                await asyncio.sleep(0)
            if self.tasks and self.random.random() < 0.3:
                self.random.choice(self.tasks).cancel()
            self.site.clock.advance(self.random.choice([0.0, 0.2, 3.0, 30.0, 120.0]))
            assert len(self.site.server.of(self.job.session)) <= 1
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize("seed", range(150))
async def test_no_history_runs_a_job_twice(seed: int) -> None:
    history = History(seed)
    await history.run()
    server, job = history.site.server, history.job
    history.site.clock.advance(200.0)
    for _ in range(3):
        await history.site.look(job)
    assert len(server.of(job.session)) <= 1
    if history.ended_before:
        assert all(native.show(history.site.clock.now()).phase != "RUNNING" for native in server.of(job.session))
