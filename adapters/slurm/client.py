"""Calls to slurmrestd, and its errors told apart. Imports the HTTP of adapters/common and its tokens, this package's
records, ports and errors.

What an error means is in its number, hardly in the status: a job that is not known is 500 with 2017 (measured with
Slurm 22.05.8; later versions may say 404 as well). -1 says nothing: slurmctld may be down, or it may not take the
credentials, of which slurmrestd itself makes no check. Then a call that can do nothing, the end of job 0, tells which:
it reports the number that the others lose. Numbers: slurm_errno.h; https://slurm.schedmd.com/rest_api.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, TypeVar

import aiohttp
import msgspec

from adapters.common.http import Answer, Origin, failure, tidy
from adapters.common.tokens import Tokens
from adapters.slurm import records
from broker.domain.deadline import Deadline
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteMisbehaved,
    SiteRefused,
    SiteUnreachable,
)
from broker.ports import Clock

T = TypeVar("T")

SPOKEN = ("v0.0.44", "v0.0.43", "v0.0.42", "v0.0.41", "v0.0.40", "v0.0.38")  # in the order to choose

UNKNOWN_JOB, NEVER_NOW, HELD = 2017, 2015, 2042
_OVER = frozenset({UNKNOWN_JOB, 2021, 2084, 2086})  # of a job that is to be ended: it is over, or gone
_NOT_REACHED = frozenset({1800})  # slurmrestd had no connection to slurmctld
_NOTHING_SAID = frozenset({-1, 0, 5005})  # 5005: slurmctld closed the connection without a word
_WRONG_CREDENTIALS = frozenset({1007, 2002, 2010, 2052})
_LATER = frozenset({11, 2007, 2020, 2027, 2037, 2103, 2105, 2131})
_AGAIN = 30.0  # seconds
_LARGEST_ERROR = 1 << 20


class Signer(NamedTuple):
    """As whom a call is made."""

    user: str
    tokens: Tokens


class Client:
    def __init__(self, http: aiohttp.ClientSession, url: str, clock: Clock, *, api: str = "", cap_bytes: int) -> None:
        """`api`: the version to speak; empty: the newest that both know. Raises SettingsError, naming `url`."""
        self._origin = Origin(http, url, clock, cap_bytes=cap_bytes)
        self._clock, self._fixed, self._api = clock, api, api
        self.place = f"slurmrestd at {self._origin.place}"

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    async def api(self, who: Signer, deadline: Deadline) -> str:
        """Asked once, and again when it is not spoken there any more."""
        if not self._api:
            answer = await self._send("GET", ("openapi", "v3"), who, deadline)
            if answer.status != 200:
                raise failure(answer, self.place, self._clock.now())
            self._api = self._chosen(self._read(answer, _Description).paths)
        return self._api

    def _chosen(self, paths: Iterable[str]) -> str:
        told = {match[1] for path in paths if (match := re.match(r"/slurm/(v\d+\.\d+\.\d+)/job", path))}
        for version in SPOKEN:
            if version in told:
                return version
        spoken = tidy(", ".join(sorted(told)), 100) or "none at all"
        raise SiteMisbehaved(f"{self.place} speaks {spoken}; here {', '.join(SPOKEN)} are spoken.")

    async def jobs(self, who: Signer, deadline: Deadline) -> list[records.Job]:
        """All that this user is shown."""
        return (await self._get(("jobs",), who, deadline, records.Jobs)).jobs

    async def job(self, number: int, who: Signer, deadline: Deadline) -> records.Job | None:
        """None: Slurm knows none of that number."""
        answer = await self._call("GET", ("job", str(number)), who, deadline)
        if answer.status != 200 and _number(answer) == UNKNOWN_JOB:
            return None
        found = (await self._well(answer, who, deadline, records.Jobs)).jobs
        return next((job for job in found if job.job_id == number), None)

    async def partitions(self, who: Signer, deadline: Deadline) -> list[records.Partition]:
        return (await self._get(("partitions",), who, deadline, records.Partitions)).partitions

    async def nodes(self, who: Signer, deadline: Deadline) -> list[records.Node]:
        return (await self._get(("nodes",), who, deadline, records.Nodes)).nodes

    async def reservations(self, who: Signer, deadline: Deadline) -> list[records.Reservation]:
        return (await self._get(("reservations",), who, deadline, records.Reservations)).reservations

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, body: dict[str, Any], who: Signer, deadline: Deadline) -> records.Answer:
        """As slurmrestd answers, with a number of a job, and with what it says against it. A SiteError with proof:
        surely no job was made."""
        answer = await self._call("POST", ("job", "submit"), who, deadline, msgspec.json.encode(body))
        said = self._read(answer, records.Answer) if answer.status == 200 else None
        if said is None or not said.job_id:
            await self._fail(answer, who, deadline, acted=True)
        return said

    async def end(self, number: int, who: Signer, deadline: Deadline) -> None:
        """SIGTERM to the job's processes, SIGKILL after Slurm's KillWait. Idempotent; nothing, where it is over."""
        answer = await self._call("DELETE", ("job", str(number)), who, deadline)
        if answer.status != 200 and _number(answer) not in _OVER:
            await self._fail(answer, who, deadline, acted=True)

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _get(self, path: tuple[str, ...], who: Signer, deadline: Deadline, type_: type[T]) -> T:
        return await self._well(await self._call("GET", path, who, deadline), who, deadline, type_)

    async def _well(self, answer: Answer, who: Signer, deadline: Deadline, type_: type[T]) -> T:
        if answer.status != 200 or _number(answer):
            await self._fail(answer, who, deadline)
        return self._read(answer, type_)

    async def _call(
        self, method: str, path: tuple[str, ...], who: Signer, deadline: Deadline, body: bytes | None = None
    ) -> Answer:
        return await self._send(method, ("slurm", await self.api(who, deadline), *path), who, deadline, body)

    async def _send(
        self, method: str, path: tuple[str, ...], who: Signer, deadline: Deadline, body: bytes | None = None
    ) -> Answer:
        token = await who.tokens.token(deadline)
        headers = {"X-SLURM-USER-NAME": who.user, "X-SLURM-USER-TOKEN": token}
        url = self._origin.at(*path)
        answer = await self._origin.send(method, url, deadline=deadline, body=body, headers=headers)
        if answer.status in (401, 403):
            who.tokens.rejected(token)
            raise self._forbids(who)
        if answer.status == 404 and not _number(answer):
            if self._fixed and path[0] == "slurm":
                raise SiteRefused(f"{self.place} does not speak {self._fixed}, as its settings have it under api.")
            self._api = self._fixed  # it was replaced by another version, perhaps
        return answer

    def _read(self, answer: Answer, type_: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=type_)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = tidy(str(error), 120)
            raise SiteMisbehaved(f"{self.place} answered with what cannot be read: {why}") from None

    # ── errors ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _fail(self, answer: Answer, who: Signer, deadline: Deadline, *, acted: bool = False) -> NoReturn:
        """Raises what the answer is. `acted`: the call changes something, so that nothing is proof but a word from
        slurmctld."""
        said = _said(answer)
        if said is None:
            raise failure(answer, self.place, self._clock.now(), doubtful=acted)
        if said.number not in _NOTHING_SAID:
            raise self._told(said, who)
        found = await self._asked_why(who, deadline)
        if found in _NOTHING_SAID:
            who.tokens.rejected(await who.tokens.token(deadline))
            raise self._forbids(who)
        if found in _NOT_REACHED and not acted:
            raise SiteUnreachable(f"{self.place} does not reach slurmctld.")
        raise SiteMisbehaved(f"{self.place}: {tidy(said.text)}.")

    async def _asked_why(self, who: Signer, deadline: Deadline) -> int:
        """What slurmctld has against us, by a number that means something; UNKNOWN_JOB: nothing."""
        answer = await self._call("DELETE", ("job", "0"), who, deadline)
        return UNKNOWN_JOB if answer.status == 200 else _number(answer)

    def _told(self, said: records.Error, who: Signer) -> SiteError:
        text = f"{self.place}: {tidy(said.text) or f'error {said.number}'}."
        if said.number in _NOT_REACHED:
            return SiteUnreachable(f"{text} It does not reach slurmctld.")
        if said.number in _WRONG_CREDENTIALS:
            return SiteForbids(f"{text} The credentials are those of {who.user}.")
        if said.number in _LATER:
            return SiteBusy(text, retry_after=_AGAIN)
        if 2000 <= said.number < 3000 or 9000 <= said.number < 10_000:  # slurmctld's own no, and slurmrestd's
            return SiteRefused(text)
        return SiteMisbehaved(text)

    def _forbids(self, who: Signer) -> SiteForbids:
        return SiteForbids(
            f"{self.place} does not take the credentials of {who.user}: they have ended or are wrong. "
            "The broker's operator renews them."
        )


class _Description(msgspec.Struct):
    paths: dict[str, msgspec.Raw]


def _said(answer: Answer) -> records.Error | None:
    """The first error of an answer that has a number other than 0; the first of all where none has; None: there is
    none, or it cannot be read."""
    if len(answer.body) > _LARGEST_ERROR and answer.status != 200:
        return None
    try:
        errors = msgspec.json.decode(answer.body, type=records.Answer).errors or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return next((error for error in errors if error.number), errors[0] if errors else None)


def _number(answer: Answer) -> int:
    said = _said(answer)
    return said.number if said else 0
