"""From Slurm's word and what a run left in its folder to what is shown of a session. Pure; imports this package's
records and the local platform's layout.

Two know of a job. Slurm knows whether it waits, has a node, or was ended, and why; it forgets, and after a crash of
slurmctld it may be wrong (it has shown jobs as running that were over, run jobs again, and lost some). The folder knows
what the program did, as the supervisor on the node wrote it. So an end that the folder tells stands, whatever Slurm
says beside it; and where the folder tells none, Slurm says whether one can still come.
"""

from __future__ import annotations

from typing import NamedTuple

from adapters.common.http import tidy
from adapters.local.layout import TERMINAL, State
from adapters.slurm.records import Job, amount
from broker.domain.quantities import format_instant

# squeue(1) of Slurm 22.05 and https://slurm.schedmd.com/job_state_codes.html; REQUEUE, POWER_UP_NODE and LAUNCH_FAILED
# are flags that the API lists beside a state from 0.0.40 on. Of several the first of this table counts.
PHASES = {
    "REQUEUE": "WAITING",
    "REQUEUED": "WAITING",
    "REQUEUE_FED": "WAITING",
    "REQUEUE_HOLD": "WAITING",
    "RESV_DEL_HOLD": "WAITING",
    "SPECIAL_EXIT": "WAITING",
    "REVOKED": "WAITING",  # of a federation: another of its clusters has started it
    "CONFIGURING": "PREPARING",
    "POWER_UP_NODE": "PREPARING",
    "STAGE_OUT": "RELEASING",
    "COMPLETING": "RELEASING",
    "PENDING": "WAITING",
    "STOPPED": "RUNNING",
    "SUSPENDED": "RUNNING",
    "RESIZING": "RUNNING",
    "SIGNALING": "RUNNING",
    "RUNNING": "RUNNING",
    "CANCELLED": "CANCELLED",
    "OUT_OF_MEMORY": "FAILED",
    "TIMEOUT": "FAILED",
    "NODE_FAIL": "FAILED",
    "PREEMPTED": "FAILED",
    "BOOT_FAIL": "FAILED",
    "DEADLINE": "FAILED",
    "FAILED": "FAILED",
    "COMPLETED": "COMPLETED",
}

# What ended a job from outside, in words.
ENDS = {
    "OUT_OF_MEMORY": "it used more memory than was granted",
    "TIMEOUT": "its time limit was reached",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "it had to make way for another job",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "it could not end by its deadline",
    "CANCELLED": "it was cancelled",
}

# squeue(1), "JOB REASON CODES"; https://slurm.schedmd.com/job_reason_codes.html. With `*`: what it begins with.
REASONS = {
    "None": "the scheduler has not looked at it yet",
    "Resources": "it waits for nodes to become free",
    "Priority": "others go before it",
    "BeginTime": "its time has not come",
    "Reservation": "it waits for its reservation",
    "ReqNodeNotAvail*": "nodes that it needs are down, drained or reserved",
    "Nodes_required_for_job_are_DOWN*": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "PartitionConfig": "its partition cannot give it what it asks for",
    "PartitionTimeLimit": "its partition lets no job run so long",
    "PartitionNodeLimit": "its partition cannot give it the nodes",
    "PartitionDown": "its partition starts no jobs now",
    "PartitionInactive": "its partition starts no jobs now",
    "JobHeldUser": "it is held, until its owner releases it",
    "JobHeldAdmin": "it is held, until an administrator of the cluster releases it",
    "launch failed requeued held": "it could not be launched and is held, until an administrator releases it",
    "job requeued in held state": "it is held, until an administrator of the cluster releases it",
    "QOSMax*": "it asks for more than its QOS allows one job or user",
    "QOSGrp*": "all that its QOS may use together is in use",
    "AssocMax*": "it asks for more than its account allows one job or user",
    "AssocGrp*": "all that its account may use together is in use",
    "Licenses": "it waits for a licence",
    "Cleaning": "its earlier run is still being cleared away",
}

RUNNER_ENDED = (0, 1, 2)  # exit codes of adapters/slurm/runner.py after it has written how the run ended
SETTLED = 60.0  # seconds after which both have said what they have to say: caches of shared file systems, slow nodes
NOT_OURS = 3  # and when it was not the first
ALIVE = (
    180.0  # seconds since its last pulse, of one each five, for which a run is believed to live, whatever Slurm says
)


class Left(NamedTuple):
    """What the folder holds. `taken_by`: the number of the job in Slurm that began the run; None: none has. `pulse`:
    when its supervisor last was alive. `ending`: somebody asked for the end. `words`: the last line of the batch
    script's own output."""

    state: State | None = None
    taken_by: int | None = None
    pulse: float | None = None
    ending: bool = False
    words: str = ""

    @property
    def over(self) -> State | None:
        return self.state if self.state is not None and self.state.phase in TERMINAL else None

    def alive(self, now: float) -> bool:
        return self.pulse is not None and abs(now - self.pulse) < ALIVE


class Shown(NamedTuple):
    """`final`: nothing that comes later changes it. `unbegun`: it is so only if no run begins any more, which whoever
    shows it has to see to."""

    phase: str
    messages: tuple[str, ...] = ()
    began: float | None = None
    ended: float | None = None
    final: bool = False
    unbegun: bool = False


def word(job: Job) -> str:
    """The one that counts of a job's states; one that is not in the table where there is no other."""
    states = job.states
    return next((name for name in PHASES if name in states), next(iter(sorted(states)), "UNKNOWN"))


def is_over(job: Job) -> bool:
    return PHASES.get(word(job)) in TERMINAL


def shown(job: Job | None, left: Left, number: int | None, now: float) -> Shown:
    """`job`: as Slurm shows it; None: Slurm knows it no more. `number`: Slurm's number of it."""
    if left.over is not None:
        return _ended(left.over, job, left, now)
    if job is None:
        return _forgotten(left, f"slurm job {number}" if number else "its job in Slurm", now)
    phase = PHASES.get(word(job))
    if phase is None:
        return Shown(word(job), (f"slurm job {job.job_id} is {tidy(word(job))}, which is not known here",))
    if phase in TERMINAL:
        return _ended_by_slurm(job, phase, left, now)
    if phase == "WAITING":
        return _waiting(job, left, now)
    return _going(job, phase, left)


# ── on its way ───────────────────────────────────────────────────────────────────────────────────────────────────


def _waiting(job: Job, left: Left, now: float) -> Shown:
    if left.taken_by is None:
        return Shown("WAITING", (pending(job),))
    phase = left.state.phase if left.state else "PREPARING"
    if left.alive(now) and not job.restart_cnt:  # slurmctld was restarted and remembers an older state
        return Shown(phase, (f"slurm job {job.job_id} is {word(job)} by Slurm's word, but runs",), _began(job, left))
    return Shown("FAILED", (_requeued(job),), _began(job, left), left.pulse or now, final=True)


def _going(job: Job, phase: str, left: Left) -> Shown:
    where = f" on {tidy(job.nodes, 60)}" if job.nodes else ""
    text = f"slurm job {job.job_id} is {word(job)}{where}"
    if phase != "RUNNING":
        return Shown(phase if left.state is None or phase == "RELEASING" else left.state.phase, (text,))
    return Shown(left.state.phase if left.state else "PREPARING", (text,), left.state.began if left.state else None)


def _requeued(job: Job) -> str:
    return f"slurm job {job.job_id} had begun, and was put back into the queue ({word(job)}); a job runs once"


def pending(job: Job) -> str:
    reason = tidy(job.state_reason or "None", 80)
    hint = next((text for name, text in REASONS.items() if _matches(name, reason)), "")
    more = tidy(job.state_description or "", 120)
    named = "" if reason == "None" else f" ({reason})"  # so Slurm says that there is none
    told = f"slurm job {job.job_id} is {word(job)}{named}" + (f": {hint}" if hint else "")
    told += f"; {more}" if more and more != reason else ""
    expected = amount(job.start_time)
    return f"{told}; expected to start {format_instant(round(expected))}" if expected else told


def _matches(name: str, reason: str) -> bool:
    return reason.startswith(name[:-1]) if name.endswith("*") else reason == name


# ── over ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ended(state: State, job: Job | None, left: Left, now: float) -> Shown:
    """The folder tells an end. Slurm's word is waited for where it may tell more of why."""
    ended = Shown(state.phase, _said(state.message), state.began, state.ended, final=True)
    if state.phase == "COMPLETED" or job is None or (state.phase == "CANCELLED" and left.ending):
        return ended
    if PHASES.get(word(job)) == "WAITING":  # no more is to be heard of this run
        hit = state.phase == "CANCELLED" or (state.exit or 0) < 0
        return ended._replace(phase="FAILED", messages=(_requeued(job),)) if hit else ended
    if not is_over(job):
        waits = now < (state.ended or 0.0) + SETTLED
        return ended._replace(phase="RELEASING", ended=None, final=False) if waits else ended
    if word(job) == "CANCELLED" and (state.phase == "CANCELLED" or (state.exit or 0) < 0):
        return ended._replace(phase="CANCELLED", messages=(_by_slurm(job),))
    if word(job) in ENDS and word(job) != "CANCELLED":
        # What the supervisor took for somebody's wish was Slurm's.
        message = state.message if state.phase == "FAILED" else ""
        return ended._replace(phase="FAILED", messages=(*_said(message), _by_slurm(job)))
    return ended


def _ended_by_slurm(job: Job, phase: str, left: Left, now: float) -> Shown:
    """Slurm tells an end, the folder none: the supervisor was killed, or never began."""
    if job.exit == NOT_OURS and left.alive(now) and not job.restart_cnt:  # else Slurm has ended the first run itself
        return Shown(left.state.phase if left.state else "PREPARING", (_twice(job),), _began(job, left))
    began, ended = _began(job, left), _ended_at(job) or now
    by_itself = word(job) in ("COMPLETED", "FAILED") and job.exit in RUNNER_ENDED and left.taken_by is not None
    if by_itself and now < ended + SETTLED:
        return Shown("RELEASING", (f"slurm job {job.job_id} has ended; how, is not to be seen yet",), began)
    text = _by_slurm(job)
    if phase == "COMPLETED":
        phase, text = "FAILED", f"{text}, but left no word of how it ended"
    told = (text, *_said(left.words)) if phase == "FAILED" else (text,)
    return Shown(phase, told, began, ended, final=True, unbegun=left.taken_by is None)


def _twice(job: Job) -> str:
    return f"slurm job {job.job_id} was run a second time, and has ended; the first run goes on"


def _forgotten(left: Left, name: str, now: float) -> Shown:
    if left.taken_by is None:
        phase = "CANCELLED" if left.ending else "FAILED"
        return Shown(phase, (f"Slurm lost {name} before it began",), None, now, final=True, unbegun=True)
    began = left.state.began if left.state else None
    if left.alive(now):
        return Shown(
            left.state.phase if left.state else "PREPARING", (f"Slurm knows {name} no more; it runs on",), began
        )
    phase = "CANCELLED" if left.ending else "FAILED"
    text = f"Slurm knows {name} no more, and its run ended without a word"
    return Shown(phase, (text, *_said(left.words)), began, left.pulse or now, final=True)


def _by_slurm(job: Job) -> str:
    """`slurm job 7: OUT_OF_MEMORY, it used more memory than was granted (OutOfMemory)`"""
    text = f"slurm job {job.job_id}: {word(job)}"
    text += f", {ENDS[word(job)]}" if word(job) in ENDS else ""
    details = [tidy(part, 120) for part in (job.state_reason, job.state_description) if part and part != "None"]
    if job.exit and word(job) == "FAILED":
        details.append(f"exit code {job.exit}" if job.exit > 0 else f"signal {-job.exit}")
    return text + (f" ({'; '.join(dict.fromkeys(details))})" if details else "")


def _began(job: Job, left: Left) -> float | None:
    """Of the program; else of the job, where it had a node."""
    if left.state is not None and left.state.began is not None:
        return left.state.began
    return (amount(job.start_time) or None) if left.taken_by is not None else None


def _ended_at(job: Job) -> float | None:
    return amount(job.end_time) or None


def _said(text: str) -> tuple[str, ...]:
    return (text,) if text else ()
