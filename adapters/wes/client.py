"""The wire of a WES server, for one account: calls, and errors told apart. Imports the HTTP and signing of common, the
ports, and this package's reading.

Source: GA4GH's workflow_execution_service.openapi.yaml 1.1.0. Found in servers, and meant to be so here:

    toil 9.6        lists runs under `workflows`, by id and state alone, on one page; log addresses are relative
    sapporo 2.4     writes the text of a run's logs where the schema has their addresses; page_size is 10 unless told
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from yarl import URL

from adapters.common.http import Answer, Origin, failure, tidy
from adapters.common.retry import repeat
from adapters.common.signing import Signer
from adapters.wes import info, translate
from adapters.wes.info import Info
from adapters.wes.states import moment
from adapters.wes.translate import Submission
from broker.domain.deadline import Deadline
from broker.errors import SiteError, SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused
from broker.ports import Clock

PAGE = 200  # runs asked for at once
MOST_PAGES = 1000
MOST_LOG = 1024**2  # bytes of a log that are handed out: its end
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@~-]{0,199}")
_ADDRESS = re.compile(r"(https?://|/|\.\.?/)\S{1,2000}")


class Tags(NamedTuple):
    """Of a run of some broker. None in both: of somebody else's."""

    session: UUID | None = None
    broker: str | None = None


class Run(NamedTuple):
    """A line of the list. `tags` None: the list tells none."""

    id: str
    state: str
    tags: Tags | None = None


class Wes:
    """One account at one server. `signer`: goes before the origin's own credentials; `whose` they
    are, for messages.

    What all methods raise: SiteUnreachable, SiteForbids, SiteBusy, SiteRefused (the server did nothing), SiteTimeout,
    SiteMisbehaved (it may have).
    """

    def __init__(self, origin: Origin, signer: Signer | None, clock: Clock, whose: str) -> None:
        self._origin, self._signer, self._clock, self._whose = origin, signer, clock, whose
        self.place = origin.place

    async def info(self, deadline: Deadline) -> Info:
        return info.read(await self._get(self._origin.at("service-info"), deadline))

    async def runs(self, deadline: Deadline, **query: str) -> AsyncIterator[list[Run]]:
        """Page by page, as the server orders them. `query`: what it can filter by."""
        seen, token = {""}, ""
        for _ in range(MOST_PAGES):
            asked = {"page_size": str(PAGE), **({"page_token": token} if token else {}), **query}
            document = await self._get(self._origin.at("runs").with_query(asked), deadline)
            listed = document.get("runs", document.get("workflows"))
            if not isinstance(listed, list):
                raise SiteMisbehaved(f"{self.place} sent no list of runs.")
            yield [run for run in map(_run, listed) if run is not None]
            following = document.get("next_page_token")
            token = following if isinstance(following, str) else ""
            if token in seen:
                break
            seen.add(token)
        if token:
            raise SiteMisbehaved(f"{self.place} lists runs without an end.")

    async def run(self, run: str, deadline: Deadline) -> dict[str, Any]:
        """The RunLog. Raises SiteForgot: there is no such run."""
        return await self._get(self._origin.at("runs", run), deadline, gone=f"the server has no run {run}.")

    async def steps(self, document: Mapping[str, Any], run: str, deadline: Deadline) -> list[Mapping[str, Any]]:
        """The logs of a run's steps, of its RunLog or from where that says (1.1); none, where there are none."""
        logs = document.get("task_logs")
        address = document.get("task_logs_url")
        if not isinstance(logs, list) and isinstance(address, str):
            url = self._origin.same(address, self._origin.at("runs", run))
            logs = (await self._get(url, deadline)).get("task_logs") if url is not None else None
        return [log for log in logs or () if isinstance(log, dict)] if isinstance(logs, list) else []

    async def submit(self, submission: Submission, boundary: str, deadline: Deadline) -> str:
        """The id of the new run. Not repeatable. `boundary`: a word that stands in none of its parts."""
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        url = self._origin.at("runs")
        answer = await self._send("POST", url, deadline, form(submission, boundary), headers)
        if answer.status not in (200, 201, 202):
            raise self._failure(answer, doubtful=True)
        run = _document(answer.body).get("run_id")
        if not isinstance(run, str) or not _RUN_ID.fullmatch(run):
            raise SiteMisbehaved(f"{self.place} took a run and did not say which.")
        return run

    async def cancel(self, run: str, deadline: Deadline) -> None:
        """Raises SiteForgot: there is no such run."""
        # The call has no body; toil wants one in JSON all the same.
        answer = await self._send("POST", self._origin.at("runs", run, "cancel"), deadline, b"{}")
        if answer.status == 404:
            raise SiteForgot(f"the server has no run {run}.")
        if answer.status >= 300:
            raise self._failure(answer)

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def text(self, said: object, run: str, deadline: Deadline) -> str | None:
        """The end of a log: the text itself, or what lies at the address that is said of it. None: there is none."""
        if not isinstance(said, str) or not said:
            return None
        if not _ADDRESS.fullmatch(said):
            return said.encode(errors="replace")[-MOST_LOG:].decode(errors="ignore")
        url = self._own(said, run)
        if url is None:
            return None
        kept = b""
        try:
            async with aclosing(self.bytes_at(url, deadline)) as pieces:
                async for piece in pieces:
                    kept = (kept + piece)[-MOST_LOG:]
        except (SiteRefused, SiteForgot):  # not written yet, or gone
            return None
        return kept.decode(errors="replace")

    def address(self, location: str, run: str) -> URL | None:
        """An output's location as an address of this server's own; None: it is none."""
        return self._own(location, run) if location.startswith(("http://", "https://")) else None

    def _own(self, location: str, run: str) -> URL | None:
        """Asked with our credentials, which open the runs of others too, while a workflow can write what it likes into
        its outputs, and on some servers into its log: so the run's id has to be a step of the path."""
        url = self._origin.same(location, self._origin.at("runs", run))
        steps = url.path.split("/") if url is not None else []
        return url if run in steps and ".." not in steps else None

    def output(self, run: str, name: str) -> URL:
        """Where sapporo hands out an output. Raises SiteMisbehaved for a name that would lead elsewhere."""
        return self._origin.at("runs", run, "outputs", *name.split("/"))

    async def size(self, url: URL, deadline: Deadline) -> int | None:
        """In bytes; None: the server does not say. It is asked by GET: sapporo knows no HEAD."""
        answer = await self._origin.head(url, deadline=deadline, method="GET", headers=await self._signed(deadline))
        if answer.status != 200:
            raise self._failure(answer)
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None

    async def bytes_at(self, url: URL, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """In pieces, without a bound. Close it when done."""
        async with aclosing(
            self._origin.stream(url, deadline=deadline, headers=await self._signed(deadline))
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        if self._signer is not None:
            await self._signer.close()

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _get(self, url: URL, deadline: Deadline, gone: str = "") -> dict[str, Any]:
        answer = await repeat(lambda: self._send("GET", url, deadline), clock=self._clock, deadline=deadline)
        if answer.status == 404 and gone:
            raise SiteForgot(gone)
        if answer.status != 200:
            raise self._failure(answer)
        return _document(answer.body)

    async def _send(
        self,
        method: str,
        url: URL,
        deadline: Deadline,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """What is not taken is got anew, once: whoever answers 401 has done nothing."""
        signed = await self._signed(deadline)
        answer = await self._origin.send(
            method, url, deadline=deadline, body=body, headers={**signed, **(headers or {})}
        )
        if answer.status == 401 and self._signer is not None:
            self._signer.rejected(signed["Authorization"])
            again = {**(headers or {}), **await self._signed(deadline)}
            answer = await self._origin.send(method, url, deadline=deadline, body=body, headers=again)
        return answer

    async def _signed(self, deadline: Deadline) -> dict[str, str]:
        if self._signer is None:
            return {}
        try:
            return {"Authorization": await self._signer.header(deadline)}
        except SiteForbids as error:
            raise SiteForbids(f"{error.detail} It is that of {self._whose}.") from None

    def _failure(self, answer: Answer, *, doubtful: bool = False) -> SiteError:
        error = failure(answer, self.place, self._clock.now(), doubtful=doubtful)
        if isinstance(error, SiteForbids):
            return SiteForbids(f"{error.detail} It was asked with those of {self._whose}.")
        return error


def form(submission: Submission, boundary: str) -> bytes:
    """RFC 7578."""
    parts = [
        _part(boundary, f'name="{name}"', "", value.encode(errors="replace"))
        for name, value in submission.fields.items()
    ]
    parts += [
        _part(
            boundary,
            f'name="workflow_attachment"; filename="{name}"',
            "Content-Type: application/octet-stream\r\n",
            content,
        )
        for name, content in submission.files.items()
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()])


def _part(boundary: str, names: str, kind: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {names}\r\n{kind}\r\n"
    return head.encode() + content + b"\r\n"


def tags(said: object) -> Tags:
    """Of whatever stands in the place of a run's tags."""
    if not isinstance(said, dict):
        return Tags()
    session, broker = said.get(translate.SESSION), said.get(translate.BROKER)
    try:
        return Tags(UUID(session), broker) if isinstance(session, str) and isinstance(broker, str) else Tags()
    except ValueError:
        return Tags()


def _run(said: object) -> Run | None:
    run, state = (said.get("run_id"), said.get("state")) if isinstance(said, dict) else (None, None)
    if not isinstance(said, dict) or not isinstance(run, str) or not _RUN_ID.fullmatch(run):
        return None
    told = said.get("tags")
    return Run(run, read_state(state), tags(told) if isinstance(told, dict) and told else None)


def read_state(said: object) -> str:
    return tidy(said, 40) if isinstance(said, str) and said else "UNKNOWN"


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SiteMisbehaved("the server sent something that is no JSON object.")
    return document


def times(document: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """When a run began and ended, of its RunLog."""
    log = document.get("run_log")
    began, ended = (moment(log.get(key)) if isinstance(log, dict) else None for key in ("start_time", "end_time"))
    return began, ended if ended is None or began is None else max(began, ended)  # sapporo counts in whole seconds
