"""What a cluster has, what fits it, and when: from one snapshot of its partitions, nodes, reservations and queue. Pure;
imports this package's records, the domain's quantities and reasons.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from adapters.common.http import tidy
from adapters.slurm.records import Job, Node, Partition, Reservation, amount, gres, hosts, listed
from adapters.slurm.states import PHASES, word
from broker.domain.outcome import Reason
from broker.domain.quantities import Span, format_duration

TURN = 60.0  # seconds within which a scheduler with nothing else to do begins a job
NOWHERE = "no partition of the cluster takes jobs of this site now"

# sinfo(1), "NODE STATE CODES", as the API spells them: a node that shows one of these begins nothing.
_OUT = frozenset({
    "DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "FUTURE", "INVAL", "INVALID", "INVALID_REG", "MAINT",
    "MAINTENANCE", "NOT_RESPONDING", "NO_RESPOND", "PERFCTRS", "POWERING_DOWN", "REBOOT_ISSUED", "UNKNOWN", "ERROR",
})  # fmt: skip
# Reasons for which a job that waits is not before us in the queue.
_ASIDE = ("JobHeld", "BeginTime", "Dependency", "launch failed", "job requeued in held", "PartitionTimeLimit")


class Rules(NamedTuple):
    """Where jobs may go, by the operator's word. `extras`: type of extra → GRES."""

    partitions: tuple[str, ...]
    constraint: str
    account: str
    qos: str
    reservation: str
    extras: Mapping[str, str]
    overhead: int  # MiB


class Want(NamedTuple):
    """What a job asks of one node. Memory in MiB; `gres`: by the names of the cluster; minutes: its time limit."""

    cores: int
    memory: int
    gres: Mapping[str, int]
    minutes: int


class Snapshot(NamedTuple):
    partitions: Sequence[Partition]
    nodes: Sequence[Node]
    reservations: Sequence[Reservation]


class Place(NamedTuple):
    """A partition that takes our jobs, with those of its nodes that may run them, be they up or not."""

    partition: Partition
    nodes: tuple[Node, ...]

    def fitting(self, want: Want) -> tuple[Node, ...]:
        minutes = self.partition.minutes
        if minutes is not None and want.minutes > minutes:
            return ()
        return tuple(node for node in self.nodes if _fits(want, *self._room(node)))

    def _room(self, node: Node) -> tuple[float, float, Mapping[str, int]]:
        most, memory = self.partition.cores, self.partition.memory
        return min(node.cpus, most or node.cpus), min(node.real_memory, memory or node.real_memory), gres(node.gres)

    def cores(self) -> float:
        return max((self._room(node)[0] for node in self.nodes), default=0)

    def memory(self) -> float:
        return max((self._room(node)[1] for node in self.nodes), default=0)


def places(snapshot: Snapshot, rules: Rules) -> tuple[Place, ...]:
    """Those that are up and let us in: the named ones, or the default, or all where none is said to be it."""
    known = [p for p in snapshot.partitions if p.up and p.admits(rules.account, rules.qos)]
    chosen = [p for p in known if p.name in rules.partitions]
    if not rules.partitions:
        chosen = [p for p in known if p.default] or [p for p in known if p.default is None]
    features = _features(rules.constraint)
    found = (Place(p, tuple(n for n in snapshot.nodes if _belongs(n, p, features))) for p in chosen)
    return tuple(place for place in found if place.nodes)


def _belongs(node: Node, partition: Partition, features: frozenset[str]) -> bool:
    if "FUTURE" in node.states or partition.name not in (node.partitions or ()):
        return False
    return features <= _has(node)


def _has(node: Node) -> set[str]:
    return set(node.features if isinstance(node.features, list) else listed(node.features))


def _features(constraint: str) -> frozenset[str]:
    """Those that every node must have. Of what sbatch(1) knows besides (alternatives, counts) Slurm is the judge."""
    return frozenset(constraint.replace("&", ",").split(",")) if re.fullmatch(r"[\w.,&-]+", constraint) else frozenset()


def _fits(want: Want, cores: float, memory: float, generic: Mapping[str, int]) -> bool:
    enough = all(generic.get(name, 0) >= count for name, count in want.gres.items())
    return want.cores <= cores and want.memory <= memory and enough


# ── how much there is ────────────────────────────────────────────────────────────────────────────────────────────


def nodes_of(found: Iterable[Place]) -> tuple[Node, ...]:
    """Each once, whatever partitions it is in."""
    return tuple({node.name: node for place in found for node in place.nodes}.values())


def gib(mib: float, overhead: int) -> int:
    """Whole GiB of memory that a program can be granted out of so many MiB."""
    return max(0, int((mib - overhead) // 1024))


def shut(snapshot: Snapshot, rules: Rules) -> str:
    """Why no place is there: what the operator has named that the cluster does not have, or that all is closed."""
    there = [partition.name for partition in snapshot.partitions]
    if missing := [name for name in rules.partitions if name not in there]:
        named = f"{', '.join(missing)}, as the settings have it under partitions"
        return f"the cluster has no partition {named}. There are: {', '.join(there)}"
    features = _features(rules.constraint)
    if features and not any(features <= _has(node) for node in snapshot.nodes):
        return f"no node of the cluster has {rules.constraint}, as the settings have it under constraint"
    return NOWHERE


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refusals(found: Sequence[Place], want: Want) -> tuple[Reason, ...]:
    """Why it fits nowhere, or nowhere now; empty: it does."""
    if not found:
        return (Reason(NOWHERE, rule="partitions"),)
    fitting = nodes_of(Place(place.partition, place.fitting(want)) for place in found)
    if not fitting:
        return (_misfit(found, want),)
    up = [node for node in fitting if not node.states & _OUT]
    return () if up else (Reason(f"all nodes that could run it are down: {_told(fitting)}", "compute", "nodes"),)


def _misfit(found: Sequence[Place], want: Want) -> Reason:
    longest = max((place.partition.minutes or float("inf")) for place in found)
    if want.minutes > longest:
        text = f"its time limit would be {want.minutes} min, with staging and tidying up; the most is {longest:g} min"
        spare = format_duration(max(0.0, (longest - 1) * 60))
        return Reason(text, "schedule.requested.duration", "time limit", f"at most {spare}, all in all")
    short = [name for name, count in want.gres.items() if not _somewhere(found, {name: count})]
    if short:
        most = max(gres(node.gres).get(short[0], 0) for node in nodes_of(found))
        return Reason(f"no node has {want.gres[short[0]]} of {short[0]}", "compute.extras", "nodes", f"at most {most}")
    text = f"no node has {want.cores} cores and {want.memory} MiB together, in a partition that runs so long"
    most_cores, most_memory = max(p.cores() for p in found), max(p.memory() for p in found)
    return Reason(text, "compute", "nodes", f"less of one; the most is {most_cores:g} cores, or {most_memory:g} MiB")


def _somewhere(found: Sequence[Place], generic: Mapping[str, int]) -> bool:
    return any(place.fitting(Want(0, 0, generic, 0)) for place in found)


def _told(nodes: Sequence[Node]) -> str:
    shown = [f"{n.name} ({', '.join(sorted(n.states & _OUT))}{_why(n)})" for n in nodes[:3]]
    return ", ".join(shown) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")


def _why(node: Node) -> str:
    return f": {tidy(node.reason, 60)}" if node.reason else ""


def partitions(found: Sequence[Place], want: Want) -> str:
    """Those in which it fits, as sbatch takes them: Slurm picks the one that begins it first."""
    return ",".join(place.partition.name for place in found if place.fitting(want))


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def begins(
    found: Sequence[Place], want: Want, reservations: Sequence[Reservation], own: str, jobs: Sequence[Job], now: float
) -> Span | None:
    """From the scheduler's own figures; None: they do not tell. A node that is free now, and a queue that is empty:
    now. Else no later than the jobs before it are expected to begin, and than some node is empty, should all jobs on
    it run to their limits. `own`: the reservation that our jobs use."""
    nodes = nodes_of(Place(place.partition, place.fitting(want)) for place in found)
    nodes = tuple(node for node in nodes if not node.states & _OUT)
    queue = [job for job in jobs if _is_before(job, {place.partition.name for place in found})]
    expected = [start for job in queue if (start := amount(job.start_time)) and start > now]
    if not nodes or (queue and not expected):
        return None
    barred = _barred({node.name for node in nodes}, reservations, own, want, now)
    if any(_free(node, want) and not barred[node.name] for node in nodes):
        return Span(now, max(now + TURN, *expected)) if expected else Span(now, now + TURN)
    ends = {name: sorted(times) or [barred[name]] for name, times in _ends(barred, jobs, now).items()}
    known = {name: times for name, times in ends.items() if times[-1]}
    if not known:
        return None
    first = min(max(barred[name], times[0]) for name, times in known.items())
    last = min(max(barred[name], times[-1]) for name, times in known.items())
    return Span(min(first, *expected), max(last, *expected)) if expected else Span(first, last)


def _free(node: Node, want: Want) -> bool:
    used = gres(node.gres_used)
    generic = {name: count - used.get(name, 0) for name, count in gres(node.gres).items()}
    cores, memory = node.cpus - (node.alloc_cpus or 0), node.real_memory - (node.alloc_memory or 0)
    return _fits(want, cores, memory, generic)


def _barred(
    names: Collection[str], reservations: Sequence[Reservation], own: str, want: Want, now: float
) -> dict[str, float]:
    """Until when reservations of others keep the job off, by node; 0: none does."""
    until, end = dict.fromkeys(names, 0.0), now + want.minutes * 60
    for one in reservations:
        starts, ends = amount(one.start_time) or 0.0, amount(one.end_time) or float("inf")
        if one.name != own and starts < end and ends > now:
            for name in hosts(one.node_list).intersection(until):
                until[name] = max(until[name], ends)
    return until


def _ends(names: Collection[str], jobs: Sequence[Job], now: float) -> dict[str, list[float]]:
    """When the jobs on each node are over at the latest. A cluster has thousands of both, so each job is read once."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for job in jobs:
        end = amount(job.end_time)
        if end and PHASES.get(word(job)) == "RUNNING":
            for name in hosts(job.nodes).intersection(found):
                found[name].append(max(now, end))
    return found


def _is_before(job: Job, names: set[str]) -> bool:
    waits = PHASES.get(word(job)) == "WAITING" and bool(names & set(listed(job.partition)))
    return waits and not (job.state_reason or "").startswith(_ASIDE)
