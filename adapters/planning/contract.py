"""What every Platform must hold, as a class of tests to inherit. Imports pytest, the platform port, broker's domain.

    class TestMine(PlatformContract):
        @pytest.fixture
        async def stage(self, tmp_path): return Stage(make=lambda: ..., ...)

It holds a platform to the docstrings of `adapters.planning.platform.Platform`. The planner on top of it is held to
`broker.testing.planner_contract`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from adapters.planning.platform import Job, Keeper, Platform
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL, known, taken
from broker.errors import SiteForgot
from broker.ports import Clock, Sighting
from broker.testing.planner_contract import PATIENCE, real_time


@dataclass(frozen=True)
class Stage:
    """What the contract needs to know of a platform.

    `make`: the platform as a process that has just begun has it, always the same one. `short`, `long`, `failing`:
    requests whose runs end COMPLETED, are on their way for as long as a test takes, end FAILED. `beyond`: one that can
    never run; None: there is none. `text`: what one result of `short` holds; None: not known beforehand. `ran`: how
    often the job was really begun, where that can be known. `pass_time`: awaited until something has happened.
    """

    make: Callable[[], Platform]
    clock: Clock
    short: Mapping[str, Any]
    long: Mapping[str, Any]
    failing: Mapping[str, Any] | None = None
    beyond: Mapping[str, Any] | None = None
    text: bytes | None = None
    ran: Callable[[Job], int] | None = None
    pass_time: Callable[[], Awaitable[None]] = real_time

    def soon(self) -> Deadline:
        return Deadline.after(PATIENCE, self.clock.monotonic())

    def job(self, request: Mapping[str, Any]) -> Job:
        read = ExecutionRequest.model_validate(request)
        owner = Owner("tests", "ada")
        return Job(uuid4(), "contract", owner, read, 1, 1, 0, {}, duration=3600.0, start=self.clock.now())

    async def started(self, request: Mapping[str, Any]) -> Job:
        job = self.job(request)
        await self.make().start(job, self.soon())
        return job

    async def look(self, job: Job) -> Sighting:
        seen = (await self.make().status([job], self.soon()))[job.session]
        assert isinstance(seen, Sighting), seen
        return seen

    async def ended(self, job: Job) -> Sighting:
        async with asyncio.timeout(PATIENCE):
            while (seen := await self.look(job)).phase not in TERMINAL:
                assert known(seen.phase)
                await self.pass_time()
        return seen

    def runs(self, job: Job, expected: int) -> None:
        if self.ran is not None:
            assert self.ran(job) == expected


class PlatformContract:
    """Override `stage`."""

    @pytest.fixture
    async def stage(self) -> Stage:
        raise NotImplementedError("return the Stage of a fresh platform")

    # ── before anything runs ─────────────────────────────────────────────────────────────────────────────────

    async def test_what_it_is_is_the_same_to_every_process(self, stage: Stage) -> None:
        assert await stage.make().describe(stage.soon()) == await stage.make().describe(stage.soon())
        assert (await stage.make().describe(stage.soon())).platform

    async def test_its_room_is_nowhere_below_nothing(self, stage: Stage) -> None:
        room = await stage.make().capacity(stage.soon())
        assert all(value is None or value >= 0 for value in (room.cores, room.memory, room.storage))

    async def test_it_refuses_what_can_never_run_and_says_why(self, stage: Stage) -> None:
        assert stage.make().refuse(ExecutionRequest.model_validate(stage.short)) == ()
        if stage.beyond is not None:
            reasons = stage.make().refuse(ExecutionRequest.model_validate(stage.beyond))
            assert reasons
            assert all(reason.text for reason in reasons)

    async def test_estimating_submits_nothing(self, stage: Stage) -> None:
        if (await stage.make().describe(stage.soon())).reserves:
            pytest.skip("it runs at once what it is given, and is not asked for estimates")
        job = stage.job(stage.short)
        await stage.make().estimate(job, stage.soon())
        assert isinstance((await stage.make().status([job], stage.soon()))[job.session], SiteForgot)
        stage.runs(job, 0)

    async def test_of_a_job_never_started_there_is_no_trace(self, stage: Stage) -> None:
        job, other = await stage.started(stage.long), stage.job(stage.short)
        found = await stage.make().status([other, job], stage.soon())
        assert isinstance(found[other.session], SiteForgot)
        assert isinstance(found[job.session], Sighting)
        await stage.make().cancel(job, stage.soon())

    async def test_what_is_at_hand_is_data_that_was_asked_for(self, stage: Stage) -> None:
        platform, request = stage.make(), ExecutionRequest.model_validate(stage.short)
        if not isinstance(platform, Keeper):
            pytest.skip("it does not say which data it has")
        found = await platform.at_hand(request, stage.soon())
        assert set(found) <= {f"data[{i}]" for i in range(len(request.data or ()))}
        assert all(count >= 0 for count in found.values())

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_job_is_started_once(self, stage: Stage) -> None:
        job = stage.job(stage.short)
        seen = await asyncio.gather(*(stage.make().start(job, stage.soon()) for _ in range(8)))
        assert all(taken(sighting.phase) for sighting in seen)
        assert (await stage.ended(job)).phase == "COMPLETED"
        assert (await stage.make().start(job, stage.soon())).phase == "COMPLETED"
        assert (await stage.look(job)).phase == "COMPLETED"
        stage.runs(job, 1)

    async def test_a_run_says_when_it_was(self, stage: Stage) -> None:
        before = stage.clock.now()
        seen = await stage.ended(await stage.started(stage.short))
        assert seen.began is not None
        assert seen.ended is not None
        assert before - 1.0 <= seen.began <= seen.ended <= stage.clock.now() + 1.0  # file systems round

    async def test_a_run_that_goes_wrong_fails(self, stage: Stage) -> None:
        if stage.failing is None:
            pytest.skip("none of its runs goes wrong")
        seen = await stage.ended(await stage.started(stage.failing))
        assert seen.phase == "FAILED"
        assert seen.messages

    async def test_what_runs_goes_on_without_the_process_that_started_it(self, stage: Stage) -> None:
        platform, job = stage.make(), stage.job(stage.short)
        await platform.start(job, stage.soon())
        await platform.close()
        assert (await stage.ended(job)).phase == "COMPLETED"
        stage.runs(job, 1)

    # ── cancelling ───────────────────────────────────────────────────────────────────────────────────────────

    async def test_what_runs_can_be_ended_and_again(self, stage: Stage) -> None:
        job = await stage.started(stage.long)
        await stage.make().cancel(job, stage.soon())
        assert (await stage.ended(job)).phase == "CANCELLED"
        assert (await stage.make().cancel(job, stage.soon())).phase == "CANCELLED"

    async def test_what_was_ended_before_it_began_never_runs(self, stage: Stage) -> None:
        job = stage.job(stage.short)
        assert (await stage.make().cancel(job, stage.soon())).phase == "CANCELLED"
        assert (await stage.make().start(job, stage.soon())).phase == "CANCELLED"
        await stage.pass_time()
        assert (await stage.look(job)).phase == "CANCELLED"
        stage.runs(job, 0)

    async def test_what_is_over_stays_as_it_was(self, stage: Stage) -> None:
        job = await stage.started(stage.short)
        assert (await stage.ended(job)).phase == "COMPLETED"
        assert (await stage.make().cancel(job, stage.soon())).phase == "COMPLETED"

    async def test_ending_and_beginning_at_once_ends_one_way(self, stage: Stage) -> None:
        job = stage.job(stage.long)
        await asyncio.gather(stage.make().start(job, stage.soon()), stage.make().cancel(job, stage.soon()))
        assert (await stage.ended(job)).phase == "CANCELLED"

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────

    async def test_what_it_holds_is_what_is_not_over(self, stage: Stage) -> None:
        assert await stage.make().held(stage.soon()) == ()
        over = await stage.started(stage.short)
        await stage.ended(over)
        job = await stage.started(stage.long)
        held = await stage.make().held(stage.soon())
        assert [(one.handle, one.session) for one in held] == [(str(job.session), job.session)]
        assert held[0].phase not in TERMINAL
        await stage.make().cancel(job, stage.soon())
        await stage.ended(job)
        assert await stage.make().held(stage.soon()) == ()

    async def test_a_job_of_which_the_session_alone_is_known_can_be_ended(self, stage: Stage) -> None:
        job = await stage.started(stage.long)
        unknown = stage.job(stage.short)
        bare = msgspec.structs.replace(unknown, session=job.session, cores=0, memory=0, duration=0.0)
        await stage.make().cancel(bare, stage.soon())
        assert (await stage.ended(job)).phase == "CANCELLED"

    # ── what is left ─────────────────────────────────────────────────────────────────────────────────────────

    async def test_results_are_what_they_are_said_to_be(self, stage: Stage) -> None:
        job = await stage.started(stage.short)
        assert (await stage.ended(job)).phase == "COMPLETED"
        platform = stage.make()
        if not (await platform.describe(stage.soon())).results:
            pytest.skip("the profile does not say results")
        texts = []
        for result in await platform.results(job, stage.soon()):
            text = b"".join([piece async for piece in platform.fetch(job, result.name, stage.soon())])
            assert len(text) == result.bytes
            assert result.checksum in (None, f"sha256:{hashlib.sha256(text).hexdigest()}")
            texts.append(text)
        assert stage.text is None or stage.text in texts

    @pytest.mark.parametrize("name", ["no-such-file", "../stdout", "/etc/passwd", ""])
    async def test_only_what_is_listed_is_handed_out(self, stage: Stage, name: str) -> None:
        job = await stage.started(stage.short)
        await stage.ended(job)
        with pytest.raises(SiteForgot):
            await anext(aiter(stage.make().fetch(job, name, stage.soon())))

    async def test_logs_can_be_read(self, stage: Stage) -> None:
        job = await stage.started(stage.short)
        await stage.ended(job)
        logs = await stage.make().logs(job, stage.soon())
        assert all(len(text.encode()) <= 1024**2 for text in (logs.stdout, logs.stderr) if text is not None)
