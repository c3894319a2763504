"""What slurmrestd says, read: jobs, nodes, partitions, reservations, errors. Pure; imports msgspec and `Amount`.

Version 0.0.38 writes plain numbers and one word for a state; from 0.0.40 on numbers are `{set, infinite, number}` and
states lists of words. Both are read here, so that nobody else need know. Sources: the descriptions that slurmrestd
gives at /openapi/v3 (0.0.38 of Slurm 22.05; 0.0.44 of 25.11), and the release notes of its API,
https://slurm.schedmd.com/rest_release_notes.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

MOST_HOSTS = 100_000  # names in one expression for hosts


class Number(msgspec.Struct):
    """As data parsers from 0.0.39 on write one that may be missing or without bound."""

    set: bool = True
    infinite: bool = False
    number: float | int | None = None


Amount = float | int | Number | None
Words = str | list[str] | None


def amount(value: Amount) -> float | None:
    """None: not set, or without bound."""
    if isinstance(value, Number):
        return None if value.infinite or not value.set else value.number
    return value


def words(value: Words) -> frozenset[str]:
    """`idle` or `["IDLE", "DRAIN"]`, in capitals."""
    many = [value] if isinstance(value, str) else value or []
    return frozenset(word.strip().upper() for word in many if word.strip())


def listed(text: str | None) -> tuple[str, ...]:
    """`a,b` → a, b. Slurm writes nothing, or `(null)`, for no list."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip() and part.strip() != "(null)")


class ExitCode(msgspec.Struct):
    return_code: Amount = None
    signal: Any = None


class Job(msgspec.Struct):
    job_id: int
    name: str | None = ""
    comment: str | None = ""
    user_name: str | None = ""
    job_state: Words = None
    state_reason: str | None = ""
    state_description: str | None = ""
    exit_code: float | int | ExitCode | None = None
    submit_time: Amount = None
    start_time: Amount = None
    end_time: Amount = None
    restart_cnt: int | None = 0
    partition: str | None = ""
    nodes: str | None = ""

    @property
    def states(self) -> frozenset[str]:
        return words(self.job_state)

    @property
    def exit(self) -> int | None:
        """Of the batch script; negative: the signal that ended it; None: it has not ended."""
        if isinstance(self.exit_code, ExitCode):
            signal = self.exit_code.signal
            number = signal.get("id") if isinstance(signal, dict) else None
            number = number.get("number") if isinstance(number, dict) else number
            if isinstance(number, int) and number:
                return -number
            code = amount(self.exit_code.return_code)
            return None if code is None else int(code)
        raw = amount(self.exit_code)
        if raw is None:
            return None
        # A wait status as wait(2) gives it: the signal in the lower bits, else the code above them.
        return -(int(raw) & 0x7F) if int(raw) & 0x7F else int(raw) >> 8


class Jobs(msgspec.Struct):
    jobs: list[Job]


class Node(msgspec.Struct):
    """Memory in MiB."""

    name: str
    cpus: int = 0
    real_memory: int = 0
    alloc_cpus: int | None = 0
    alloc_memory: int | None = 0
    state: Words = None
    state_flags: Words = None
    gres: str | None = ""
    gres_used: str | None = ""
    features: Words = None
    active_features: Words = None
    partitions: list[str] | None = None
    reason: str | None = ""

    @property
    def states(self) -> frozenset[str]:
        return words(self.state) | words(self.state_flags)


class Nodes(msgspec.Struct):
    nodes: list[Node]


class _Allowed(msgspec.Struct):
    allowed: str | None = ""
    deny: str | None = ""


class _Maximums(msgspec.Struct):
    time: Amount = None
    cpus_per_node: Amount = None
    partition_memory_per_node: Amount = None


class _Up(msgspec.Struct):
    state: Words = None


class Partition(msgspec.Struct):
    """The first block is of 0.0.38, the second of what came after it."""

    name: str
    flags: Words = None
    state: Words = None
    max_time_limit: Amount = None
    maximum_cpus_per_node: Amount = None
    maximum_memory_per_node: Amount = None
    allowed_accounts: str | None = ""
    denied_accounts: str | None = ""
    allowed_qos: str | None = ""
    denied_qos: str | None = ""

    partition: _Up | None = None
    maximums: _Maximums | None = None
    accounts: _Allowed | None = None
    qos: _Allowed | str | None = None

    @property
    def up(self) -> bool:
        return "UP" in (words(self.partition.state) if self.partition else words(self.state))

    @property
    def default(self) -> bool | None:
        """None: it is not told, as from 0.0.39 on."""
        return None if self.partition else "DEFAULT" in words(self.flags)

    @property
    def minutes(self) -> float | None:
        """The longest that a job may be given; None: no bound."""
        return _bound(self.maximums.time if self.maximums else self.max_time_limit)

    @property
    def cores(self) -> float | None:
        """The most of one node; None: all that it has."""
        return _bound(self.maximums.cpus_per_node if self.maximums else self.maximum_cpus_per_node)

    @property
    def memory(self) -> float | None:
        """MiB, the most of one node; None: all that it has."""
        return _bound(self.maximums.partition_memory_per_node if self.maximums else self.maximum_memory_per_node)

    def admits(self, account: str, qos: str) -> bool:
        """What is not named by us is chosen by Slurm, and judged when it takes the job."""
        accounts, quality = self.accounts, self.qos if isinstance(self.qos, _Allowed) else None
        return _admits(
            account,
            accounts.allowed if accounts else self.allowed_accounts,
            accounts.deny if accounts else self.denied_accounts,
        ) and _admits(
            qos, quality.allowed if quality else self.allowed_qos, quality.deny if quality else self.denied_qos
        )


class Partitions(msgspec.Struct):
    partitions: list[Partition]


class Reservation(msgspec.Struct):
    name: str
    node_list: str | None = ""
    start_time: Amount = None
    end_time: Amount = None
    flags: Words = None


class Reservations(msgspec.Struct):
    reservations: list[Reservation]


class Error(msgspec.Struct):
    """One of `errors`. The number has three names, by call and version."""

    error_number: int | None = None
    error_code: int | None = None
    errno: int | None = None
    error: str | None = ""
    description: str | None = ""

    @property
    def number(self) -> int:
        """0: none is told."""
        return next((n for n in (self.error_number, self.error_code, self.errno) if n is not None), 0)

    @property
    def text(self) -> str:
        return ": ".join(dict.fromkeys(part for part in (self.description, self.error) if part))


class Answer(msgspec.Struct):
    """What every answer has, and that to a submit besides."""

    errors: list[Error] | None = None
    job_id: int | None = None
    job_submit_user_msg: str | None = ""


@lru_cache(1024)  # nodes are alike, and each is looked at for every request
def gres(text: str | None) -> Mapping[str, int]:
    """`gpu:a100:4(S:0-1),gpu:t4:2` → {gpu: 6, gpu:a100: 4, gpu:t4: 2}."""
    found: dict[str, int] = {}
    for part in listed(re.sub(r"\([^)]*\)", "", text or "")):
        name, *rest = part.split(":")
        count = _count(rest[-1]) if rest else 1
        kind = rest[:-1] if count is not None else rest
        for key in dict.fromkeys((name, ":".join((name, *kind)))):
            found[key] = found.get(key, 0) + (1 if count is None else count)
    return found


def hosts(text: str | None) -> frozenset[str]:
    """`n[1-3,07],x` → n1, n2, n3, n07, x; MOST_HOSTS at most."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text or "")
    return frozenset(islice((name for part in parts for name in _expanded(part.strip())), MOST_HOSTS))


def _expanded(part: str) -> Iterator[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    inside, _, tail = rest.partition("]")
    for piece in inside.split(","):
        first, _, last = piece.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            continue
        for number in range(int(first), min(int(last or first), int(first) + MOST_HOSTS) + 1):
            yield from (f"{head}{number:0{len(first)}d}{end}" for end in _expanded(tail))


def _count(text: str) -> int | None:
    """`4`, `2K`; None: no number, so a type."""
    match = re.fullmatch(r"(\d{1,12})([KMGT]?)", text)
    return int(match[1]) * 1024 ** " KMGT".index(match[2] or " ") if match else None


def _bound(value: Amount) -> float | None:
    """Slurm's largest numbers, and -1, mean that there is none."""
    number = amount(value)
    return None if number is None or number < 0 or number >= 0xFFFFFFFE else number


def _admits(word: str, allowed: str | None, denied: str | None) -> bool:
    if not word:
        return True
    open_to = [name for name in listed(allowed) if name.upper() != "ALL"]
    return (not open_to or word in open_to) and word not in listed(denied)
