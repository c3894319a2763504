"""What is shown of a session, from Slurm's word and the folder's, without either."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from adapters.local.layout import State
from adapters.slurm import records, states
from adapters.slurm.records import Job, gres, hosts
from adapters.slurm.states import PHASES, Left, is_over, shown, word
from broker.domain.session import known

NOW = 1_000_000.0
ALIVE, DEAD = NOW - 5, NOW - 3600
RUNS = State("RUNNING", began=NOW - 100)
WELL = State("COMPLETED", began=NOW - 100, ended=NOW - 1, exit=0)
BADLY = State("FAILED", "program ended with exit code 3", began=NOW - 100, ended=NOW - 1, exit=3)
HIT = State("FAILED", "program was ended by SIGTERM", began=NOW - 100, ended=NOW - 1, exit=-15)
ASKED = State("CANCELLED", "cancelled", began=NOW - 100, ended=NOW - 1, exit=-15)


def job(state: str | list[str], **more: Any) -> Job:
    return Job(**{"job_id": 7, "name": "here", "job_state": state, "end_time": NOW - 1, **more})


def left(state: State | None = None, pulse: float | None = ALIVE, *, ending: bool = False, words: str = "") -> Left:
    return Left(state, 7 if state else None, pulse if state else None, ending, words)


# Slurm's word, what the folder holds, what is shown, whether that stays.
COURSE = [
    (job("PENDING"), left(), "WAITING", False),
    (job("CONFIGURING"), left(), "PREPARING", False),
    (job("RUNNING"), left(), "PREPARING", False),  # the node has not begun
    (job("RUNNING"), left(State("PREPARING")), "PREPARING", False),
    (job("RUNNING"), left(RUNS), "RUNNING", False),
    (job("SUSPENDED"), left(RUNS), "RUNNING", False),
    (job("COMPLETING"), left(RUNS), "RELEASING", False),
    (job(["RUNNING", "COMPLETING"]), left(RUNS), "RELEASING", False),
    # ends that the folder tells
    (job("RUNNING"), left(WELL), "COMPLETED", True),  # slurmctld was killed, and shows it for ever
    (job("COMPLETED"), left(WELL), "COMPLETED", True),
    (job("CANCELLED"), left(WELL), "COMPLETED", True),  # too late
    (job("PENDING"), left(WELL), "COMPLETED", True),  # it is about to run again, and will not
    (None, left(WELL), "COMPLETED", True),
    (job("FAILED", exit_code=256), left(BADLY), "FAILED", True),
    (job("RUNNING"), left(BADLY), "RELEASING", False),  # Slurm's word is still to come
    (job("RUNNING"), left(BADLY._replace(ended=NOW - 100)), "FAILED", True),  # it does not come
    (None, left(BADLY), "FAILED", True),
    (job("CANCELLED"), left(BADLY), "FAILED", True),
    (job("CANCELLED"), left(HIT, ending=True), "CANCELLED", True),  # the program heard of it before the supervisor
    (job("RUNNING"), left(ASKED, ending=True), "CANCELLED", True),
    (job("CANCELLED"), left(ASKED), "CANCELLED", True),
    (job("RUNNING"), left(ASKED), "RELEASING", False),
    (job("TIMEOUT"), left(ASKED), "FAILED", True),
    (job("PREEMPTED"), left(ASKED), "FAILED", True),
    (job("OUT_OF_MEMORY"), left(BADLY), "FAILED", True),
    (job("PENDING"), left(ASKED), "FAILED", True),  # put back into the queue while it ran
    (job("PENDING"), left(HIT), "FAILED", True),
    (job("PENDING"), left(BADLY), "FAILED", True),
    # ends that Slurm alone tells
    (job("CANCELLED"), left(), "CANCELLED", True),
    (job("BOOT_FAIL"), left(), "FAILED", True),
    (job("DEADLINE"), left(), "FAILED", True),
    (job("NODE_FAIL", exit_code=0), left(RUNS), "FAILED", True),
    (job("FAILED", exit_code=9), left(RUNS, DEAD), "FAILED", True),  # the supervisor was killed
    (job("COMPLETED", exit_code=0), left(RUNS), "RELEASING", False),  # a file system that is slow to tell
    (job("COMPLETED", exit_code=0, end_time=NOW - 100), left(RUNS), "FAILED", True),
    (job("FAILED", exit_code=32512), left(words="python3: not found"), "FAILED", True),
    # put back, or forgotten, while it runs
    (job("PENDING"), left(RUNS), "RUNNING", False),
    (job("PENDING"), left(RUNS, DEAD), "FAILED", True),
    (job("PENDING", restart_cnt=1), left(RUNS), "FAILED", True),  # Slurm has ended the run, and counts it
    (job("FAILED", exit_code=768, restart_cnt=1), left(RUNS), "FAILED", True),
    (job("REQUEUE_HOLD"), left(RUNS, DEAD), "FAILED", True),
    (job("FAILED", exit_code=768), left(RUNS), "RUNNING", False),  # the second run; the first goes on
    (job("FAILED", exit_code=768), left(RUNS, DEAD), "FAILED", True),
    (None, left(RUNS), "RUNNING", False),
    (None, left(RUNS, DEAD), "FAILED", True),
    (None, left(RUNS, DEAD, ending=True), "CANCELLED", True),
    (None, left(), "FAILED", True),
    (None, left(ending=True), "CANCELLED", True),
]


@pytest.mark.parametrize(("told", "rest", "phase", "final"), COURSE)
def test_two_words_make_one(told: Job | None, rest: Left, phase: str, final: bool) -> None:
    seen = shown(told, rest, 7, NOW)
    assert (seen.phase, seen.final) == (phase, final)
    assert known(seen.phase)
    assert seen.phase != "FAILED" or seen.messages
    assert not seen.final or seen.phase == "CANCELLED" or seen.ended is not None
    assert seen.unbegun == (final and rest.taken_by is None)


def test_every_state_of_the_manual_has_a_phase() -> None:
    manual = """BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING
    PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT
    STOPPED SUSPENDED TIMEOUT"""
    assert set(manual.split()) <= set(PHASES)
    assert all(known(phase) for phase in PHASES.values())


def test_a_state_that_nobody_knows_is_passed_on() -> None:
    seen = shown(job("HIBERNATING"), left(), 7, NOW)
    assert (seen.phase, seen.messages) == ("HIBERNATING", ("slurm job 7 is HIBERNATING, which is not known here",))
    assert not is_over(job("HIBERNATING"))
    assert word(job([])) == "UNKNOWN"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (job("PENDING", state_reason="None"), "slurm job 7 is PENDING: the scheduler has not looked at it yet"),
        (
            job("PENDING", state_reason="Resources"),
            "slurm job 7 is PENDING (Resources): it waits for nodes to become free",
        ),
        (
            job("PENDING", state_reason="Priority", start_time=NOW),
            "slurm job 7 is PENDING (Priority): others go before it; expected to start 1970-01-12T13:46:40Z",
        ),
        (
            job("PENDING", state_reason="ReqNodeNotAvail", state_description="UnavailableNodes:n3"),
            "slurm job 7 is PENDING (ReqNodeNotAvail): nodes that it needs are down, drained or reserved; "
            "UnavailableNodes:n3",
        ),
        (
            job("PENDING", state_reason="launch failed requeued held"),
            "slurm job 7 is PENDING (launch failed requeued held): it could not be launched and is held, until an "
            "administrator releases it",
        ),
        (
            job("PENDING", state_reason="QOSMaxCpuPerUserLimit"),
            "slurm job 7 is PENDING (QOSMaxCpuPerUserLimit): it asks for more than its QOS allows one job or user",
        ),
        (job("PENDING", state_reason="Phase\x1b[31mOfMoon"), "slurm job 7 is PENDING (Phase [31mOfMoon)"),
    ],
)
def test_who_waits_is_told_why(told: Job, said: str) -> None:
    assert shown(told, left(), 7, NOW).messages == (said,)


def test_what_slurm_says_of_an_end_is_passed_on() -> None:
    memory = shown(job("OUT_OF_MEMORY", state_reason="OutOfMemory"), left(HIT), 7, NOW)
    assert memory.messages == (
        "program was ended by SIGTERM",
        "slurm job 7: OUT_OF_MEMORY, it used more memory than was granted (OutOfMemory)",
    )
    launch = shown(job("FAILED", exit_code=127 << 8, state_reason="NonZeroExitCode"), left(words="not found"), 7, NOW)
    assert launch.messages == ("slurm job 7: FAILED (NonZeroExitCode; exit code 127)", "not found")
    killed = shown(job("FAILED", exit_code=9, state_reason="JobLaunchFailure"), left(RUNS), 7, NOW)
    assert killed.messages == ("slurm job 7: FAILED (JobLaunchFailure; signal 9)",)


# ── reading what it says ─────────────────────────────────────────────────────────────────────────────────────────


def test_jobs_of_both_shapes_read_alike() -> None:
    early = {
        "job_id": 7, "name": "a", "job_state": "FAILED", "exit_code": 768, "end_time": 5, "start_time": 0,
        "state_reason": "NonZeroExitCode", "user_name": "ada", "array_task_id": None,
    }  # fmt: skip
    late = {
        "job_id": 7, "name": "a", "job_state": ["FAILED"], "state_reason": "NonZeroExitCode", "user_name": "ada",
        "exit_code": {
            "status": ["ERROR"],
            "return_code": {"set": True, "infinite": False, "number": 3},
            "signal": {"id": {"set": False, "infinite": False, "number": 0}, "name": ""},
        },
        "end_time": {"set": True, "infinite": False, "number": 5},
        "start_time": {"set": True, "infinite": False, "number": 0},
    }  # fmt: skip
    one, other = (msgspec.convert(record, Job) for record in (early, late))
    assert (one.exit, one.states, records.amount(one.end_time)) == (3, {"FAILED"}, 5)
    assert (other.exit, other.states, records.amount(other.end_time)) == (3, {"FAILED"}, 5)
    late["exit_code"] = {"signal": {"id": {"set": True, "number": 9}, "name": "KILL"}, "return_code": {"set": False}}
    assert msgspec.convert(late, Job).exit == -9
    assert [job("FAILED", exit_code=raw).exit for raw in (None, 0, 9, 15, 253 << 8)] == [None, 0, -9, -15, 253]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (None, {}),
        ("(null)", {}),
        ("gpu:2", {"gpu": 2}),
        ("gpu", {"gpu": 1}),
        ("gpu:a100:4(S:0-1),gpu:t4:2", {"gpu": 6, "gpu:a100": 4, "gpu:t4": 2}),
        ("gpu:a100:2(IDX:0-1)", {"gpu": 2, "gpu:a100": 2}),
        ("gpu:a100", {"gpu": 1, "gpu:a100": 1}),
        ("bandwidth:4K", {"bandwidth": 4096}),
    ],
)
def test_generic_resources_are_counted(text: str | None, found: dict[str, int]) -> None:
    assert gres(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", set()),
        ("n1", {"n1"}),
        ("n[1-3,07],x", {"n1", "n2", "n3", "n07", "x"}),
        ("r[1-2]n[08-09]-ib", {"r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib"}),
        ("n[a-b]", set()),
    ],
)
def test_expressions_for_hosts_are_expanded(text: str, found: set[str]) -> None:
    assert hosts(text) == found


def test_an_expression_for_hosts_is_bounded() -> None:
    assert len(hosts("n[1-999999999]")) == records.MOST_HOSTS


def test_what_ends_from_outside_has_words() -> None:
    assert set(states.ENDS) <= {name for name, phase in PHASES.items() if phase in ("FAILED", "CANCELLED")}
