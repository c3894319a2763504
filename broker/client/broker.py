"""A broker, as a program sees it: submit, sets, sessions, sites, status. Imports the domain and the client's parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from yarl import URL

from broker.client import login
from broker.client.batch import Batch
from broker.client.compose import Draft, Options, compose
from broker.client.errors import NoBroker
from broker.client.http import Connection
from broker.client.offers import Offers, read_set
from broker.client.sessions import Line, Session, read_session
from broker.domain.hops import BATCH
from broker.domain.quantities import format_instant, parse_instant
from broker.domain.request import ExecutionRequest
from broker.domain.session import REFUSED
from broker.errors import BadInput, NotFound

_PAGES = 20  # of a list, at most, when a handle is looked up
_AT_ONCE = 8  # sessions that are read side by side
_SHOWN = frozenset({"OFFERED", "INITIAL", "REJECTED", "EXPIRED"})


class Broker:
    """Any IVOA Execution Broker 1.0. Use it as it is, or `async with` to keep its connections between calls.

    `url`: else BROKER_URL, else what `broker login` stored; where nothing names one, the first call raises NoBroker.
    Credentials: arguments, else BROKER_USER and BROKER_PASSWORD or BROKER_TOKEN, else the stored ones. They are sent to
    the broker's own origin only. `patience`: seconds for one call. Safe for use by many tasks of one loop.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        patience: float = 30.0,
    ) -> None:
        try:
            found = login.find(url, username=username, password=password, token=token)
        except NoBroker:
            found = None  # a session may still be given by its URL
        self._connection = Connection(found, patience=patience)

    def __repr__(self) -> str:
        known = self._connection.login
        return f"Broker({str(known.url) if known else None!r})"

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give connections back. The next call opens its own."""
        await self._connection.close()

    @property
    def url(self) -> URL:
        """Raises NoBroker."""
        if self._connection.login is None:
            raise NoBroker("no broker known.", remedy="Run: broker login URL, or try: make demo")
        return self._connection.login.url

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        what: str | os.PathLike[str] | ExecutionRequest | Mapping[str, Any],
        *,
        data: Sequence[str] = (),
        cores: int | None = None,
        memory: int | None = None,
        duration: timedelta | str | None = None,
        prefer: str | None = None,
        max_price: float | None = None,
        name: str | None = None,
        arguments: Sequence[str] = (),
        site: str | None = None,
        wait: float | None = None,
        results_to: str | None = None,
        keep: timedelta | str | None = None,
        expect: float | str | None = None,
        inputs: str | os.PathLike[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        network: bool = False,
    ) -> Offers:
        """Ask every site at once. `what`: a program (.py), a notebook (.ipynb), a workflow (.cwl), a request's file
        (YAML, JSON), or a request. `data`: URLs; `memory` in GiB; `duration` such as "1h" or "PT1H"; `prefer` a preset;
        `max_price` the most that may be paid; `arguments` those of a program; `site`: ask this one alone.
        `wait`: seconds until the answer, None: as long as the broker thinks right; 0: at once, to a set that grows
        (`offers.complete`), where the broker can do so. `results_to`: where results are written, such as
        `s3://bucket/{session}/`; `keep`: how long the site is to keep them; `expect`: how much, in GB or as "500MB".
        `inputs`: a file with a workflow's inputs; `parameters`: inputs by name, which go before those of the file.
        `network`: the run needs the network itself, beside its data.

        A NO is no error: `offers.yes` is False and `outcomes` name the reasons. Raises BadInput for a wrong request.
        """
        options = Options(
            data, cores, memory, duration, prefer, max_price, name, arguments, site,
            results_to=results_to, keep=keep, expect=expect, inputs=inputs, parameters=parameters,
            network=network,
        )  # fmt: skip
        return await self.send(compose(what, options), wait=wait)

    async def submit_each(
        self,
        what: str | os.PathLike[str] | ExecutionRequest | Mapping[str, Any],
        rows: Sequence[Mapping[str, str]],
        *,
        data: Sequence[str] = (),
        cores: int | None = None,
        memory: int | None = None,
        duration: timedelta | str | None = None,
        prefer: str | None = None,
        max_price: float | None = None,
        name: str | None = None,
        arguments: Sequence[str] = (),
        results_to: str | None = None,
        keep: timedelta | str | None = None,
        expect: float | str | None = None,
        inputs: str | os.PathLike[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        network: bool = False,
    ) -> Batch:
        """A request for each row, asked a few at a time: each `{column}` in it takes the row's value. Then
        `await batch.accept()`, `await batch.finished()`, and `await batch.again()` for what failed.

        Raises BadInput before anything is sent where a row makes no request, or where all would write their results to
        the same place: `results_to` holds `{session}` or a column."""
        batch = Batch.compose(
            self,
            what,
            rows,
            lambda row: Options(
                data,
                cores,
                memory,
                duration,
                prefer,
                max_price,
                name,
                arguments,
                row=row,
                results_to=results_to,
                keep=keep,
                expect=expect,
                inputs=inputs,
                parameters=parameters,
                network=network,
            ),
        )
        return await batch.ask()

    async def send(self, draft: Draft, *, batch: UUID | None = None, wait: float | None = None) -> Offers:
        """Ask with a request composed before. A refused element is named with its line in the file. `batch`: what the
        requests of one batch share, so that they count once against caps."""
        headers = {BATCH: str(batch)} if batch else {}
        if wait is not None:
            headers["Prefer"] = f"wait={wait:.0f}" if wait >= 1 else "respond-async"  # RFC 7240; whole seconds
        wire = draft.request.to_wire()
        try:
            answer = await self._connection.call("POST", self.url / "requests", wire, headers=headers, extra=120.0)
        except BadInput as error:
            raise draft.locate(error) from error
        response = read_set(answer)
        return Offers(self._connection, self._set_url(response.uuid), response, draft.request)

    def _set_url(self, uuid: UUID | None) -> URL:
        return self.url / "offersets" / str(uuid)

    async def offerset(self, handle: str | UUID) -> Offers:
        """By uuid, its beginning, name, or URL. Raises NotFound, or BadInput where it could mean several."""
        url = await self._resolve(handle, "offersets")
        return Offers(self._connection, url, read_set(await self._connection.call("GET", url)))

    async def request(self, handle: str | UUID) -> dict[str, Any]:
        """The request of a set, as it was sent: to be submitted again, changed or not. Raises NotFound where the broker
        keeps none (a plain 1.0 service does not)."""
        url = await self._resolve(handle, "offersets")
        return (await self._connection.call("GET", url / "request")).document()

    async def session(self, handle: str | UUID) -> Session:
        """By uuid, its beginning, name, or URL. Of an ended session the results are listed too."""
        url = await self._resolve(handle, "sessions")
        session = Session(self._connection, url, read_session(await self._connection.call("GET", url)))
        if session.ended and session.phase not in REFUSED:
            await session.load_results()
        return session

    # ── lists and handles ────────────────────────────────────────────────────────────────────────────────────

    async def sessions(self, *, all: bool = False, native: str | None = None) -> list[Line]:
        """One's own sessions, newest first. An offer is no job: what was only offered or refused comes with `all`.
        `native`: those alone whose job has that name at its platform, such as 48211; each session is read for it."""
        lines = await self._list("sessions", {"all": "true"} if all else {})
        lines = lines if all else [line for line in lines if line.phase not in _SHOWN]
        return lines if native is None else await self._called(lines, native)

    async def _called(self, lines: Sequence[Line], native: str) -> list[Line]:
        """The platform's name of a job is all of it, or its last word: `slurm job 48211`."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def is_it(line: Line) -> bool:
            async with room:
                url = self.url / "sessions" / line.uuid
                found = read_session(await self._connection.call("GET", url)).native or ""
                return native in (found, found.rpartition(" ")[2])

        wanted = await asyncio.gather(*(is_it(line) for line in lines))
        return [line for line, so in zip(lines, wanted, strict=True) if so]

    async def offersets(self) -> list[Line]:
        """One's own offer sets, newest first."""
        return await self._list("offersets", {})

    async def _list(self, what: str, query: Mapping[str, str]) -> list[Line]:
        lines: list[Line] = []
        after: str | None = None
        for _ in range(_PAGES):
            url = (self.url / what).with_query({**query, **({"after": after} if after else {})})
            page = (await self._connection.call("GET", url)).document()
            entries = page.get(what)
            lines += [_line(entry) for entry in entries or () if isinstance(entry, dict)]
            after = page.get("next")
            if not after:
                break
        return lines

    async def _resolve(self, handle: str | UUID, what: str) -> URL:
        text = str(handle).strip()
        if text.startswith(("http://", "https://")):
            return URL(text)
        if (uuid := _uuid(text)) is not None:
            return self.url / what / str(uuid)
        line = match(await self._handles(what, text), text)
        return self.url / what / line.uuid

    async def _handles(self, what: str, text: str) -> list[Line]:
        try:
            return await (self.sessions(all=True) if what == "sessions" else self.offersets())
        except NotFound:
            raise BadInput(
                f'"{text}" cannot be looked up: this broker lists nothing.', remedy="Give the whole uuid, or the URL."
            ) from None

    # ── sites and status ─────────────────────────────────────────────────────────────────────────────────────

    async def sites(self) -> list[dict[str, Any]]:
        """Every site, as the broker describes it."""
        document = (await self._connection.call("GET", self.url / "sites")).document()
        return [site for site in document.get("sites") or () if isinstance(site, dict)]

    async def site(self, name: str) -> dict[str, Any]:
        return (await self._connection.call("GET", self._site(name))).document()

    async def put_site(self, name: str, registration: Mapping[str, Any]) -> dict[str, Any]:
        """Register a site, or change it. The broker probes it before it goes live."""
        answer = await self._connection.call("PUT", self._site(name), dict(registration), extra=60.0)
        return answer.document() if answer.body.strip() else {}

    async def delete_site(self, name: str) -> None:
        await self._connection.call("DELETE", self._site(name))

    async def drain_site(self, name: str, until: datetime | None = None) -> None:
        """Ask the site for nothing new; what runs goes on. `until` None: until it is resumed."""
        body = {"until": format_instant(until)} if until else {}
        await self._connection.call("POST", self._site(name) / "drain", body)

    async def resume_site(self, name: str) -> None:
        await self._connection.call("POST", self._site(name) / "resume", {})

    async def forget_site(self, name: str) -> None:
        """Drop what was learned of the site from its sessions: its promises are taken as they are again."""
        await self._connection.call("POST", self._site(name) / "forget", {})

    def _site(self, name: str) -> URL:
        return self.url / "sites" / name

    async def doubts(self) -> list[dict[str, Any]]:
        """Acceptances of which it is not known how they ended, whoever asked for them; for operators."""
        document = (await self._connection.call("GET", self.url / "doubts")).document()
        return [doubt for doubt in document.get("doubts") or () if isinstance(doubt, dict)]

    async def resolve(self, session: str | UUID, *, taken: bool, because: str) -> Session:
        """Say how an acceptance in doubt ended: the site took it, or surely did not. For operators, who have asked
        there. Raises Conflict for a session that is not in doubt. Idempotent."""
        url = self.url / "sessions" / str(session)
        answer = await self._connection.call("POST", url / "resolve", {"taken": taken, "because": because})
        return Session(self._connection, url, read_session(answer))

    async def status(self) -> dict[str, Any]:
        """The status document, schema `status-1.0`."""
        return (await self._connection.call("GET", self.url / "status")).document()

    async def whoami(self) -> None:
        """Raises NotSignedIn where the credentials are not taken, Unreachable where no broker answers."""
        await self._connection.call("GET", (self.url / "sessions").with_query({"limit": "1"}))


def _line(entry: Mapping[str, Any]) -> Line:
    uuid, name, phase, site = (str(entry.get(key) or "") for key in ("uuid", "name", "phase", "site"))
    try:
        created = parse_instant(entry.get("created"))
    except ValueError:
        created = None
    return Line(uuid, name, phase, site, created)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None


def match(lines: Sequence[Line], text: str) -> Line:
    """The one line that `text` names: by whole name, or by how its uuid begins. Raises NotFound or BadInput.

    The offers of a set all bear the name of what was asked: of several, the one that became a run is meant."""
    digits = text.lower().replace("-", "")
    found = [line for line in lines if line.name == text or (digits and line.uuid.replace("-", "").startswith(digits))]
    if not found:
        raise NotFound(f'"{text}" is nothing of yours.', remedy="See: broker sessions --all")
    if len(found) > 1:
        found = [line for line in found if line.phase not in _SHOWN] or found
    if len(found) > 1:
        shown = ", ".join(f"{line.uuid[:8]} ({line.name or '-'}, {line.phase})" for line in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise BadInput(f'"{text}" may mean {shown}{more}.', remedy="Give a rank, or more of the uuid.")
    return found[0]
