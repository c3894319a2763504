"""A session as its owner holds it: accept, follow, cancel, logs, results. Imports the domain and the connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import ValidationError
from yarl import URL

from broker.client.errors import Misanswered, Undecided, Unreachable
from broker.client.files import File
from broker.client.http import Answer, Connection
from broker.domain import kinds
from broker.domain.components import AbstractComponent, MessageItem
from broker.domain.session import REFUSED, TERMINAL, SimpleExecutionSession, taken
from broker.errors import BadInput, BrokerError, Conflict, NotFound, Unavailable

SOONEST, LATEST = 1.0, 2.0  # seconds between two looks at a session
PATIENCE = 300.0  # seconds without any answer, after which following gives up


@dataclass(frozen=True)
class Logs:
    """What the run wrote; None: the site hands no such thing back."""

    stdout: str | None = None
    stderr: str | None = None


@dataclass(frozen=True)
class Line:
    """A line of a list of sessions or offer sets. A set's `phase` is YES, NO or taken."""

    uuid: str
    name: str = ""
    phase: str = ""
    site: str = ""
    created: datetime | None = None


def messages(component: AbstractComponent) -> list[str]:
    """The texts of a component's messages, oldest first; templates that came unfilled are filled."""
    items = (component.meta.messages if component.meta else None) or ()
    return [text for text in map(_text, items) if text]


def _text(item: MessageItem) -> str:
    if item.message or not item.template:
        return item.message or ""
    values = item.values or {}
    return re.sub(r"\$?\{(\w+)\}", lambda match: values.get(match[1], match[0]), item.template)


def read_session(answer: Answer) -> SimpleExecutionSession:
    """Raises Misanswered for a body that is no execution session."""
    try:
        return _session(answer.document())
    except ValidationError as error:
        raise Misanswered(f"{answer.url} answered with what is no execution session: {_where(error)}.") from None


def _session(document: Mapping[str, Any]) -> SimpleExecutionSession:
    member = SimpleExecutionSession.choose(document.get("kind"))
    return (member if issubclass(member, SimpleExecutionSession) else SimpleExecutionSession).model_validate(document)


def _where(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


class Session:
    """One execution session. Immutable facts come from `document`, the state last read; calls read it anew."""

    def __init__(self, connection: Connection, url: URL, document: SimpleExecutionSession) -> None:
        self._connection = connection
        self._results: dict[str, File] | None = None
        self.url = url
        self.document = document

    def __repr__(self) -> str:
        return f"Session({self.uuid}, {self.name!r}, {self.state} at {self.site or '?'})"

    @property
    def uuid(self) -> UUID:
        """Raises Misanswered where the broker gave none."""
        return self.document.uuid or UUID(self.url.name)

    @property
    def name(self) -> str:
        executable = self.document.executable
        return (executable.name if executable else "") or self.document.name

    @property
    def site(self) -> str:
        return self.document.site or self.document.origin or ""

    @property
    def phase(self) -> str:
        """The standard's phase, verbatim."""
        return str(self.document.phase or "")

    @property
    def interactive(self) -> bool:
        """It has a connector to be reached by, so AVAILABLE means: it waits for its user."""
        return bool(self.document.connectors)

    @property
    def state(self) -> str:
        """The phase as a person means it: the AVAILABLE of a batch run is its running."""
        return "RUNNING" if self.phase == "AVAILABLE" and not self.interactive else self.phase

    @property
    def open(self) -> bool:
        """It can be accepted now. An OFFERED session that cannot is being decided."""
        options = (self.document.meta.options if self.document.meta else None) or ()
        return self.phase == "OFFERED" and any("ACCEPTED" in getattr(option, "values", ()) for option in options)

    @property
    def ended(self) -> bool:
        return self.phase in TERMINAL

    @property
    def messages(self) -> list[str]:
        return messages(self.document)

    @property
    def results(self) -> Mapping[str, File]:
        """Name → file, read when the session ended (`finished`, `Broker.session`) or by `load_results`."""
        if self._results is None:
            raise BadInput(
                "the results have not been asked for.", remedy="First: await session.finished(), or load_results()."
            )
        return self._results

    async def refresh(self) -> Self:
        """Read the present state. Raises Unreachable, NotFound, …"""
        self.document = read_session(await self._connection.call("GET", self.url))
        return self

    async def accept(self) -> Self:
        """Take the offer. On return the session is taken, or reads OFFERED: then the broker is still finding out, and
        says so in `messages`. Repeating it is safe. Where the request asked for `failover` or `requote` and another
        session was accepted in place of this one, this is that one from here on.

        Raises Conflict where it is refused or too late; Undecided where the answer was lost and reading does not
        tell: the broker settles it by itself, read the session later.
        """
        try:
            self.document = await self._update("ACCEPTED")
        except Unreachable as error:
            if not error.sent:
                raise
            await self._read_back()
        if self.phase in REFUSED and (instead := self._instead()):
            self.url = self.url.parent / str(instead)
            await self.refresh()
        if self.phase in REFUSED:
            said = self.messages
            raise Conflict(f"{self.site or 'the site'} did not take it: {said[-1] if said else self.phase}")
        return self

    def _instead(self) -> UUID | None:
        """The session that the broker accepted in place of this one."""
        items = (self.document.meta.messages if self.document.meta else None) or ()
        values = next((item.values for item in reversed(items) if item.kind == "uri:accepted-instead"), None)
        try:
            return UUID((values or {}).get("session", ""))
        except ValueError:
            return None

    async def _read_back(self) -> None:
        try:
            await self.refresh()
        except (Unreachable, Unavailable, Misanswered) as error:
            raise Undecided(
                "the broker was asked to accept, and its answer was lost.",
                remedy=f"Nothing is sent twice. Look again: broker watch {self.uuid}",
            ) from error
        if not taken(self.phase) and self.phase not in REFUSED:
            raise Undecided(
                "the answer to the acceptance was lost, and the session still reads OFFERED.",
                remedy=f"Accepting again is safe: broker accept {self.uuid}",
            )

    async def reject(self) -> Self:
        """Give the offer back. Raises Conflict where it is no open offer any more."""
        self.document = await self._update("REJECTED")
        return self

    async def cancel(self) -> Self:
        """Ask for the end of an accepted session; the phase that comes back is the site's word."""
        self.document = await self._update("CANCELLED")
        return self

    async def _update(self, phase: str) -> SimpleExecutionSession:
        update = {"kind": kinds.ENUM_UPDATE, "path": "phase", "value": phase}
        return read_session(await self._connection.call("POST", self.url, update, extra=60.0))

    async def finished(
        self,
        progress: Callable[[Session], None] | None = None,
        *,
        silent: Callable[[BrokerError], None] | None = None,
        poll: tuple[float, float] = (SOONEST, LATEST),
        patience: float = PATIENCE,
    ) -> Self:
        """Follow the session to its end, and list its results.

        `progress` is called first and at each change; `silent` once when the broker stops answering: a restart of
        it is sat out, up to `patience` seconds. `poll`: seconds between two looks, at first and at most.
        """
        loop = asyncio.get_running_loop()
        pause, shown, heard, told = poll[0], None, loop.time(), False
        while True:
            try:
                await self.refresh()
                heard, told = loop.time(), False
            except (Unreachable, Unavailable, Misanswered) as error:
                if loop.time() - heard > patience:
                    raise
                if silent and not told:
                    silent(error)
                told = True
            look = (self.phase, tuple(self.messages))
            if progress and not told and look != shown:
                progress(self)
                shown = look
            if self.ended and not told:
                await self.load_results()
                return self
            await asyncio.sleep(pause)
            pause = min(poll[1], pause * 1.2)

    async def load_results(self) -> Mapping[str, File]:
        """List the result files; none where the broker knows no such thing (a plain 1.0 service has none)."""
        folder = self.url / "results"
        try:
            listed = (await self._connection.call("GET", folder)).document().get("results")
        except NotFound:
            listed = None
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        files = [File(self._connection, folder, entry) for entry in entries]
        self._results = {file.name: file for file in files}
        return self._results

    async def logs(self) -> Logs:
        """Raises NotFound where the broker keeps none."""
        document = (await self._connection.call("GET", self.url / "logs")).document()
        texts = {key: value for key in ("stdout", "stderr") if isinstance(value := document.get(key), str)}
        return Logs(**texts)
