"""The calls of an Execution Broker 1.0 site, and those that brokers of ours add. Imports adapters.common, translate.

One method a call; what the answers mean for a broker's work is the adapter's. It learns from every answer whether a
broker of ours is there (they write `Broker-Id` on each), and speaks accordingly: end users are named, and additions
sent, to brokers of ours alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from yarl import URL

from adapters.common.http import Answer, Origin, failure, http_date, retry_after
from adapters.common.retry import repeat
from adapters.ivoa import translate
from broker.domain import hops
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.session import TERMINAL, SessionPhase
from broker.domain.site import Profile
from broker.errors import SiteBusy, SiteError, SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused, SiteUnreachable
from broker.ports import Ask, Clock, Held, Logs, Order, Quotes, Result, Sighting

_JSON = {"Content-Type": "application/json"}
_NOBODY = "00000000-0000-4000-8000-000000000000"  # no service has made this offer set
_LONGEST_USER = 4000  # what domain/hops accepts
_GONE = (404, 410)
_PAGE, _MOST_PAGES = 1000, 100  # sessions in one, and how many of them are read
_UNDER_WAY = tuple(phase.value for phase in SessionPhase if phase not in TERMINAL)
NO_SUCH_CALL = (404, 405, 501)


class Client:
    """`peer`: the id of the broker of ours that answers here; None: a plain 1.0 site, or not `heard` yet."""

    def __init__(self, origin: Origin, clock: Clock, broker_id: str, most_offers: int) -> None:
        self.peer: str | None = None
        self.heard = False
        self._origin = origin
        self._clock = clock
        self._broker_id = broker_id
        self._most_offers = most_offers
        self._requests = origin.at("requests")

    @property
    def place(self) -> str:
        return self._origin.place

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    async def describe(self, deadline: Deadline) -> Profile:
        """A profile with the measured clock offset; a plain site's says nothing but that. Leaves nothing behind."""
        sent = self._clock.now()
        answer = await self._get(self._origin.at("profile"), deadline)
        offset = _offset(answer, sent, self._clock.now())
        peer = _peer(answer)
        if peer == self._broker_id:
            raise SiteMisbehaved(f"{self.place} is this broker itself.", remedy="Register other sites only.")
        if peer and answer.status == 200:
            self.peer, self.heard = peer, True
            return translate.profile(answer.body, peer, self.place).with_(clock_offset=offset)
        if peer or answer.status >= 500 or answer.status == 429:
            raise self._failed(answer)
        await self._probe(answer, deadline)
        self.peer, self.heard = None, True
        return Profile(clock_offset=offset)

    async def _probe(self, described: Answer, deadline: Deadline) -> None:
        """A plain site is there if it answers for an offer set that cannot exist. If a broker of ours does, then
        something in between kept its profile from us."""
        answer = await self._get(self._origin.at("offersets", _NOBODY), deadline)
        if answer.status not in (200, *_GONE):
            raise self._failed(answer)
        if _peer(answer):
            raise self._failed(described)

    async def learn(self, deadline: Deadline) -> None:
        """Find out who is there, where no answer has told since the start, in half the time at most. A site that
        will not say is taken for a plain one."""
        if self.heard:
            return
        now = self._clock.monotonic()
        try:
            await self.describe(deadline.at_most(deadline.left(now) / 2, now))
        except (SiteUnreachable, SiteForbids, SiteBusy):
            raise
        except SiteError:
            return

    # ── offers ───────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, ask: Ask) -> Quotes:
        """Nothing is asked after the deadline; an answer to what was asked is waited for until `ask.until`."""
        if not ask.deadline.left(self._clock.monotonic()):
            raise SiteUnreachable(f"{self.place} was not asked: there was no time left.")
        body, headers = (ask.extended, self._hop(ask)) if self.peer else (ask.plain, _JSON)
        answer = await self._send("POST", self._requests, ask.until, body=body, headers=headers)
        if answer.status == 303 and not answer.body:
            answer = await self._follow(answer, ask.until)
        if answer.status in NO_SUCH_CALL:
            raise SiteMisbehaved(
                f"{self.place} answered {answer.status} to the question for offers: no version 1.0 service is there.",
                remedy="Check its registered address.",
            )
        if answer.status not in (200, 303):
            return translate.declined(answer, self._failed(answer))
        after = retry_after(answer, self._clock.now())
        return translate.quotes(
            answer.body,
            self.place,
            most=self._most_offers,
            ours=self.peer is not None,
            asked=len(body),
            retry_after=after,
        )

    async def _follow(self, answer: Answer, deadline: Deadline) -> Answer:
        """The standard's 303 without a body: one reading of its Location, at this origin only."""
        target = self._origin.same(answer.headers.get("Location", ""), self._requests)
        if target is None:
            raise SiteMisbehaved(f"{self.place} redirects to another origin; it was not followed.")
        found = await self._get(target, deadline)
        if found.status != 200:
            raise SiteMisbehaved(f"{self.place} answered {found.status} for the offer set that it pointed to.")
        return found

    def _hop(self, ask: Ask) -> Mapping[str, str]:
        path = ask.path if self._broker_id in ask.path else (*ask.path, self._broker_id)
        left = ask.deadline.left(self._clock.monotonic())
        return {
            **_JSON,
            hops.DEADLINE: str(int(left * 1000)),
            hops.PATH: ",".join(path),
            hops.REQUEST: str(ask.root),
            hops.USER: _user(ask.user),
            **({hops.BATCH: str(ask.batch)} if ask.batch else {}),
        }

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, order: Order, deadline: Deadline) -> Answer:
        """One POST, never repeated; whatever it answered. The key lets a broker of ours know a repetition."""
        headers = {**_JSON, "Idempotency-Key": str(order.session), **self._for(order.user)}
        return await self._send(
            "POST", self._session(order.handle), deadline, body=translate.update("ACCEPTED"), headers=headers
        )

    async def session(self, order: Order, deadline: Deadline) -> Sighting:
        """Raises SiteForgot, and SiteMisbehaved where no phase is told."""
        answer = await self._get(self._session(order.handle), deadline, self._for(order.user))
        if answer.status in _GONE:
            raise SiteForgot(f"{self.place} knows no session {order.handle}.")
        if answer.status != 200:
            raise self._failed(answer)
        seen = self.seen(answer, order)
        if seen is None:
            raise SiteMisbehaved(f"{self.place} told no phase of {order.handle}.")
        return seen

    async def change(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        """Ask for a phase, and say which one is there then. Raises SiteForgot."""
        answer = await self._post(self._session(order.handle), translate.update(phase), deadline, order.user)
        if answer.status in _GONE:
            raise SiteForgot(f"{self.place} knows no session {order.handle}.")
        if answer.status == 409:  # not from its present phase: say which that is
            return await self.session(order, deadline)
        if not 200 <= answer.status < 300:
            raise self._failed(answer)
        return self.seen(answer, order) or await self.session(order, deadline)

    def seen(self, answer: Answer, order: Order) -> Sighting | None:
        """The session in an answer; None: it tells no phase, or is empty."""
        if not answer.body.strip():
            return None
        return translate.sighting(answer.body, order.handle, self.place, ours=self.peer is not None)

    async def status_of(self, names: Sequence[str], user: Owner, deadline: Deadline) -> Answer:
        return await self._post(self._origin.at("sessions", "status"), translate.handles(names), deadline, user)

    async def release_of(self, names: Sequence[str], user: Owner, deadline: Deadline) -> Answer:
        return await self._post(self._origin.at("sessions", "release"), translate.handles(names), deadline, user)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """What a broker of ours has for our account, page after page. Raises SiteMisbehaved for a list without end."""
        url = self._origin.at("sessions").with_query(account="true", limit=str(_PAGE), phase=",".join(_UNDER_WAY))
        found: list[Held] = []
        page: URL = url
        for _ in range(_MOST_PAGES):
            answer = await self._get(page, deadline)
            if answer.status != 200:
                raise self._failed(answer)
            more, cursor = translate.held(answer.body, self.place)
            found += more
            if cursor is None:
                return tuple(found)
            page = url.update_query(after=cursor)
        raise SiteMisbehaved(f"{self.place} lists sessions without end.")

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        return translate.logs(await self._part(order, "logs", deadline), self.place)

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        return translate.results(await self._part(order, "results", deadline), self.place)

    async def result(self, order: Order, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """Raises SiteForgot for a name that is not there, or that could not be."""
        gone = SiteForgot(f"{self.place} has no result {name} of {order.handle}.")
        try:
            url = self._origin.at("sessions", order.handle, "results", *name.split("/"))
        except SiteMisbehaved:
            raise gone from None
        try:
            async with aclosing(self._origin.stream(url, deadline=deadline, headers=self._for(order.user))) as pieces:
                async for piece in pieces:
                    yield piece
        except SiteRefused as error:
            raise gone if error.status in _GONE else error from None

    async def _part(self, order: Order, what: str, deadline: Deadline) -> bytes:
        url = self._origin.at("sessions", order.handle, what)
        answer = await self._get(url, deadline, self._for(order.user))
        if answer.status in _GONE:
            raise SiteForgot(f"{self.place} knows no session {order.handle}.")
        if answer.status != 200:
            raise self._failed(answer)
        return answer.body

    # ── one call ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _get(self, url: URL, deadline: Deadline, headers: Mapping[str, str] | None = None) -> Answer:
        return await repeat(
            lambda: self._send("GET", url, deadline, headers=headers), clock=self._clock, deadline=deadline
        )

    async def _post(self, url: URL, body: bytes, deadline: Deadline, user: Owner) -> Answer:
        """A POST that is idempotent by what it asks for, and so may be repeated."""
        headers = {**_JSON, **self._for(user)}
        return await repeat(
            lambda: self._send("POST", url, deadline, body=body, headers=headers), clock=self._clock, deadline=deadline
        )

    async def _send(
        self,
        method: str,
        url: URL,
        deadline: Deadline,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = await self._origin.send(method, url, deadline=deadline, body=body, headers=headers)
        peer = _peer(answer)
        # Errors may come from a proxy in between, which writes no Broker-Id; only success tells that none is there.
        if peer or 200 <= answer.status < 400:
            self.peer, self.heard = peer, True
        return answer

    def _session(self, handle: str) -> URL:
        return self._origin.at("sessions", handle)

    def _for(self, user: Owner) -> Mapping[str, str]:
        return {hops.USER: _user(user)} if self.peer else {}

    def _failed(self, answer: Answer) -> SiteError:
        return failure(answer, self.place, self._clock.now())


def _peer(answer: Answer) -> str | None:
    return answer.headers.get(hops.ID, "").strip()[:200] or None


def _user(owner: Owner) -> str:
    """Without groups where they would be too many: that only takes rights away."""
    text = hops.encode_user(owner)
    return text if len(text) <= _LONGEST_USER else hops.encode_user(Owner(owner.issuer, owner.subject))


def _offset(answer: Answer, sent: float, received: float) -> float:
    """Seconds that the site's clock is ahead, by its Date header, which is cut to whole seconds; zero where the
    difference could be that cut or the way there and back."""
    date = http_date(answer.headers.get("Date", ""))
    if date is None:
        return 0.0
    offset = date + 0.5 - (sent + received) / 2
    return offset if abs(offset) > 0.5 + abs(received - sent) / 2 else 0.0
