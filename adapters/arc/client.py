"""ARC's REST interface as one account speaks it: calls, and errors told apart. Imports adapters.common, the ports'
errors, this package's options and states.

Source: "ARC CE REST interface specification", versions 1.0 and 1.1,
https://www.nordugrid.org/arc/arc6/tech/rest/rest.html and https://www.nordugrid.org/arc/arc7/tech/rest/rest.html. What
is called here is the same in both. What A-REX 6.17.0 was seen to do besides:

- a list of one is written as the one alone, an empty one as no body at all;
- each job of a call for many has a status of its own, as text; a description that cannot be taken is 500 there, under
  201 of the whole, and no job is made;
- a name that the mapping does not know is 403 without words;
- a new connection may break off in its handshake when another was closed just before.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from adapters.arc import states
from adapters.arc.options import AccountOptions
from adapters.arc.states import Activity
from adapters.common.http import Answer, Origin, failure, tidy
from adapters.common.parallel import each
from adapters.common.retry import ATTEMPTS, repeat
from adapters.common.tokens import tokens
from broker.domain.deadline import Deadline
from broker.errors import (
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteUnreachable,
)
from broker.plugins import Credentials
from broker.ports import Clock

T = TypeVar("T")

VERSIONS = ("1.1", "1.0")  # the one that is preferred first
BATCH = 500  # jobs in one call; ARC reads a mebibyte of their ids
_AT_ONCE = 8
_AGAIN = 0.1  # seconds
_LONGEST_ID = 200


class Account:
    """One identity at one service. Nothing is opened before the first call."""

    def __init__(
        self,
        url: str,
        ca: Path | None,
        options: AccountOptions,
        http: aiohttp.ClientSession,
        clock: Clock,
        credentials: Credentials | None = None,
    ) -> None:
        """Raises SettingsError for an address that is none."""
        self._url, self._http, self._clock, self._credentials = url, http, clock, credentials
        self._origin = Origin(http, url, clock, credentials=credentials)
        self._identity = _Identity(ca, options) if self._origin.base.scheme == "https" else None
        self._tokens = tokens(options.tokens, http, clock, self.place) if options.tokens else None
        self._context: ssl.SSLContext | None = None
        self._base: URL | None = None

    @property
    def place(self) -> str:
        return self._origin.place

    async def close(self) -> None:
        if self._tokens is not None:
            await self._tokens.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    async def jobs(self, deadline: Deadline, *, only: Iterable[str] = ()) -> list[str]:
        """The ids of its jobs, those that are over too; `only`: of these states."""
        query = {"state": ",".join(only)} if only else {}
        document = await self._read("GET", ("jobs",), deadline, query=query)
        return [_id(job) for job in _list(document, "job")]

    async def info(self, ids: Sequence[str], deadline: Deadline) -> dict[str, Activity | SiteError]:
        """What ARC shows of each; SiteForgot where it knows no such job."""
        found: dict[str, Activity | SiteError] = {}
        for entry in await self._many("info", ids, deadline):
            found[_id(entry)] = self._shown(entry)
        return found

    async def name(self, id: str, deadline: Deadline) -> str:
        """The job's name by the service's own record, which is there before its information is. Raises SiteForgot."""
        answer = await self._get(("jobs", id, "diagnose", "local"), deadline)
        lines = answer.body.decode(errors="replace").splitlines()
        return next((line[8:] for line in lines if line.startswith("jobname=")), "")

    async def cluster(self, deadline: Deadline) -> dict[str, Any]:
        """What the service tells of itself, in GLUE 2."""
        document = await self._read("GET", ("info",), deadline)
        return document if isinstance(document, dict) else {}

    async def size(self, id: str, name: str, deadline: Deadline) -> int:
        """Of a file of the job's folder. Raises SiteForgot."""
        answer = await self._repeated(
            lambda: self._send("HEAD", ("jobs", id, "session", *name.split("/")), deadline), deadline
        )
        said = self._sound(answer).headers.get("Content-Length", "")
        return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0

    async def file(self, id: str, name: str, deadline: Deadline, *, begin: int = 0) -> bytes:
        """A small file of the job's folder, or what follows its first `begin` bytes. Raises SiteForgot."""
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        return (await self._get(("jobs", id, "session", *name.split("/")), deadline, headers)).body

    async def stream(self, id: str, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """A file of the job's folder in pieces. Raises SiteForgot."""
        base = await self._versioned(deadline)
        origin, headers = await self._ready(deadline)
        url = _at(base, ("jobs", id, "session", *name.split("/")))
        try:
            async with aclosing(origin.stream(url, deadline=deadline, headers=headers)) as pieces:
                async for piece in pieces:
                    yield piece
        except SiteRefused as error:
            raise SiteForgot(f"{self.place} has no such file.") if error.status == 404 else error from None

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, description: bytes, deadline: Deadline) -> str:
        """The new job's id. An error with proof: no job was made."""
        try:
            await self._versioned(deadline)
        except SiteError as error:
            if error.proof:
                raise
            raise SiteUnreachable(f"{self.place} was not asked: {error.detail}") from error
        answer = await self._once(description, deadline)
        if answer.status == 404:
            raise SiteRefused(f"{self.place} has no call for new jobs.", status=404)
        entries = _list(self._decoded(self._sound(answer, doubtful=True)), "job")
        entry = entries[0] if len(entries) == 1 else {}
        if entry.get("status-code") == "201":
            return _id(entry)
        if isinstance(entry.get("status-code"), str):
            raise SiteRefused(f"{self.place} does not take the job: {_reason(entry)}", status=400)
        raise SiteMisbehaved(f"{self.place} took the job, or did not: its answer does not say.")

    async def kill(self, ids: Sequence[str], deadline: Deadline) -> None:
        """Ask for their end. Nothing, where they are over or gone."""
        for entry in await self._many("kill", ids, deadline):
            if entry.get("status-code") not in ("202", "200", "404"):
                raise SiteMisbehaved(f"{self.place} does not end the job: {_reason(entry)}")

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _once(self, description: bytes, deadline: Deadline) -> Answer:
        """Tried again only where surely nothing was sent."""
        headers = {"Content-Type": "application/xml"}
        for attempt in range(ATTEMPTS):
            try:
                return await self._send("POST", ("jobs",), deadline, {"action": "new"}, description, headers)
            except SiteUnreachable:
                if attempt == ATTEMPTS - 1 or deadline.left(self._clock.monotonic()) <= _AGAIN:
                    raise
                await self._clock.sleep(_AGAIN)
        raise AssertionError

    async def _many(self, action: str, ids: Sequence[str], deadline: Deadline) -> list[Mapping[str, Any]]:
        """One entry for each id; those of strangers are dropped."""
        parts = [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]

        async def call(part: Sequence[str]) -> list[Mapping[str, Any]]:
            body = msgspec.json.encode({"job": [{"id": id} for id in part]})
            entries = _list(await self._read("POST", ("jobs",), deadline, {"action": action}, body), "job")
            known = {_id(entry): entry for entry in entries}
            missing = [id for id in part if id not in known]
            if missing:
                raise SiteMisbehaved(f"{self.place} says nothing of {len(missing)} of {len(part)} jobs.")
            return [known[id] for id in part]

        answers = await each(parts, call, _AT_ONCE)
        failed = next((answer for answer in answers if isinstance(answer, SiteError)), None)
        if failed is not None:
            raise failed
        return [entry for answer in answers if not isinstance(answer, SiteError) for entry in answer]

    async def _read(
        self,
        method: str,
        path: Sequence[str],
        deadline: Deadline,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Any:
        """Of what may be asked again."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        answer = await self._repeated(lambda: self._send(method, path, deadline, query, body, headers), deadline)
        if answer.status == 404:
            self._base = None  # another version may be spoken there now
            raise SiteMisbehaved(f"{self.place} has no such call: is its address that of a service, without /rest?")
        return self._decoded(self._sound(answer))

    async def _get(self, path: Sequence[str], deadline: Deadline, headers: Mapping[str, str] | None = None) -> Answer:
        answer = await self._repeated(lambda: self._send("GET", path, deadline, headers=headers), deadline)
        return self._sound(answer)

    async def _repeated(self, call: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        return await repeat(call, clock=self._clock, deadline=deadline)

    async def _send(
        self,
        method: str,
        path: Sequence[str],
        deadline: Deadline,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        url = _at(await self._versioned(deadline), path).with_query(query or None)
        return await self._signed(method, url, deadline, body, headers)

    async def _signed(
        self, method: str, url: URL, deadline: Deadline, body: bytes | None, headers: Mapping[str, str] | None
    ) -> Answer:
        origin, signed = await self._ready(deadline)
        if method == "HEAD":
            answer = await origin.head(url, deadline=deadline, headers=signed)
        else:
            answer = await origin.send(method, url, deadline=deadline, body=body, headers={**signed, **(headers or {})})
        # 403 may be meant of one file alone, such as a result that its program has made unreadable.
        barred = answer.status == 401 or (answer.status == 403 and "session" not in url.parts)
        if barred and self._tokens is not None:
            self._tokens.rejected(signed["Authorization"].removeprefix("Bearer "))
        return answer

    async def _ready(self, deadline: Deadline) -> tuple[Origin, dict[str, str]]:
        """Whom to send to, and what signs us in. Raises SiteForbids where that cannot be had."""
        if self._identity is not None and (context := await self._identity.context()) is not self._context:
            self._context = context
            self._origin = Origin(self._http, self._url, self._clock, credentials=self._credentials, tls=context)
        if self._tokens is None:
            return self._origin, {}
        return self._origin, {"Authorization": f"Bearer {await self._tokens.token(deadline)}"}

    async def _versioned(self, deadline: Deadline) -> URL:
        """Where the version lies that we speak."""
        if self._base is None:
            self._base = await self._repeated(lambda: self._negotiated(deadline), deadline)
        return self._base

    async def _negotiated(self, deadline: Deadline) -> URL:
        answer = await self._signed("GET", self._origin.at("rest"), deadline, None, None)
        if answer.status == 404:  # of the service, and not of any job
            raise SiteMisbehaved(f"{self.place} has no such call: is its address that of a service, without /rest?")
        document = self._decoded(self._sound(answer))
        spoken = document.get("version") if isinstance(document, dict) else document
        spoken = spoken if isinstance(spoken, list) else [spoken]
        version = next((version for version in VERSIONS if version in spoken), None)
        if version is None:
            raise SiteMisbehaved(f"{self.place} speaks neither version {' nor '.join(VERSIONS)} of ARC's REST.")
        return self._origin.at("rest", version)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────

    def _sound(self, answer: Answer, *, doubtful: bool = False) -> Answer:
        """Raises what the answer is, where it is no success. `doubtful`: as `failure` has it."""
        if 200 <= answer.status < 300:
            return answer
        if answer.status == 404:
            raise SiteForgot(f"{self.place} knows no such job or file.")
        raise failure(answer, self.place, self._clock.now(), doubtful=doubtful)

    def _decoded(self, answer: Answer) -> Any:
        if not answer.body.strip():
            return {}
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise SiteMisbehaved(f"{self.place} answered with something that is no JSON.") from None

    def _shown(self, entry: Mapping[str, Any]) -> Activity | SiteError:
        if entry.get("status-code") == "404":
            return SiteForgot(f"{self.place} knows no such job.")
        document = entry.get("info_document")
        shown = document.get("ComputingActivity") if isinstance(document, dict) else None
        if entry.get("status-code") != "200" or not isinstance(shown, dict):
            return SiteMisbehaved(f"{self.place} does not show the job: {_reason(entry)}")
        return states.activity(shown)


class _Identity:
    """The certificate that an account signs in with, and whom it trusts. Files are read in threads, and again when they
    change: proxies live for hours."""

    def __init__(self, ca: Path | None, options: AccountOptions) -> None:
        self._ca, self._certificate, self._key = ca, options.certificate, options.key
        self._loaded: tuple[tuple[float, ...], ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """The same until a file changes. Raises SiteForbids."""
        return await asyncio.to_thread(self._load)

    def _load(self) -> ssl.SSLContext:
        try:
            stamp = tuple(path.stat().st_mtime for path in (self._ca, self._certificate, self._key) if path)
            if self._loaded is not None and self._loaded[0] == stamp:
                return self._loaded[1]
            context = ssl.create_default_context(
                cafile=self._ca if self._ca and self._ca.is_file() else None,
                capath=self._ca if self._ca and self._ca.is_dir() else None,
            )
            # Authorities of grids are older than what this asks of them; Python 3.13 sets it by itself.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if self._certificate:
                # A key with a pass phrase is an error, and no question on the terminal.
                context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        except (OSError, ValueError) as error:
            words = tidy(getattr(error, "strerror", None) or getattr(error, "reason", None) or "it is none")
            raise SiteForbids(f"the certificate, or the authorities, of the site cannot be read: {words}.") from None
        self._loaded = stamp, context
        return context


def _at(base: URL, path: Sequence[str]) -> URL:
    """Every character is escaped that ARC could read as more than a name; it takes a semicolon for the query."""
    if any(segment in ("", ".", "..") for segment in path):
        raise SiteForgot("there is no such file.")
    return URL("/".join([str(base), *(quote(segment, safe="") for segment in path)]), encoded=True)


def _list(document: Any, name: str) -> list[Mapping[str, Any]]:
    """A list of one is the one alone."""
    found = document.get(name) if isinstance(document, dict) else None
    entries = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(entry, dict) for entry in entries):
        raise SiteMisbehaved("the list of jobs is none.")
    return entries


def _id(entry: Mapping[str, Any]) -> str:
    id = entry.get("id")
    if not isinstance(id, str) or not 0 < len(id) <= _LONGEST_ID or not id.isascii() or not id.isalnum():
        raise SiteMisbehaved("ARC gave a job no name that could stand in an address.")
    return id


def _reason(entry: Mapping[str, Any]) -> str:
    reason = entry.get("reason")
    return f"{tidy(reason).rstrip('.') if isinstance(reason, str) and reason else 'it does not say why'}."
