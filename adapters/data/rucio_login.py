"""Signing in at Rucio: by name and password for a token that lasts a while, or with a token that the operator has.

Imports the HTTP of adapters.common, the ports. The name and the password go to the address of the log-in and nowhere
else, the token to the catalogue's own address.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol, TypeVar

from adapters.common.http import Answer, Origin, failure, http_date
from broker.domain.deadline import Deadline
from broker.errors import SettingsError, SiteError, SiteForbids, SiteMisbehaved, SiteTimeout
from broker.plugins import CatalogueResources, Credentials
from broker.ports import Clock

UNSAID = 600.0  # seconds that a token lasts, where Rucio does not say
EARLY = 60.0  # seconds before its end from which a token is not used; a tenth of its life, where that is less
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_SHORTEST = 8  # characters of a secret that are hidden where a text was cut inside it

E = TypeVar("E", bound=SiteError)


class Login(Protocol):
    async def token(self, deadline: Deadline) -> str:
        """Raises SiteForbids where the credentials are not taken, other SiteErrors where nobody could be asked."""

    def ended(self, token: str) -> bool:
        """It was not taken. True: `token` gets another; False: there is none."""

    def hidden(self, error: E) -> E:
        """The error without our secrets, should the other side have written one into its answer."""

    async def close(self) -> None: ...


def sign_in(account: str, auth_url: str | None, origin: Origin, resources: CatalogueResources) -> Login:
    """No I/O. Raises SettingsError naming `credentials` or `options.auth_url`."""
    given = resources.credentials
    if given is None:
        raise SettingsError(
            "Rucio answers nobody who is not signed in.",
            key="credentials",
            remedy="Name an entry of credentials with a username and a password, or with a token.",
        )
    if given.token:
        if not _TOKEN.fullmatch(given.token):
            raise SettingsError("its token holds what no token holds.", key="credentials")
        return OwnToken(given.token, origin.place)
    if not all(text and text.isprintable() for text in (given.username, given.password)):
        raise SettingsError("a username and a password, or a token, are wanted, on one line each.", key="credentials")
    if auth_url is None:
        return Password(account, given, origin, resources.clock)
    try:
        return Password(account, given, Origin(resources.http, auth_url, resources.clock), resources.clock)
    except SettingsError as error:
        raise SettingsError(error.detail, key="options.auth_url", remedy=error.remedy) from None


class OwnToken:
    """A token that the operator has from elsewhere, such as an OpenID Connect provider that Rucio trusts."""

    def __init__(self, token: str, place: str) -> None:
        self._token, self._place = token, place

    async def token(self, deadline: Deadline) -> str:
        return self._token

    def ended(self, token: str) -> bool:
        return False

    def hidden(self, error: E) -> E:
        return _hidden(error, self._token)

    async def close(self) -> None:
        return


class Password:
    """One log-in at a time, for all who wait for it; its token serves until shortly before it ends."""

    def __init__(self, account: str, credentials: Credentials, origin: Origin, clock: Clock) -> None:
        self._account, self._credentials, self._origin, self._clock = account, credentials, origin, clock
        self._token, self._until = "", 0.0  # monotonic
        self._task: asyncio.Task[str] | None = None

    async def token(self, deadline: Deadline) -> str:
        if self._token and self._clock.monotonic() < self._until:
            return self._token
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sign_in(deadline))
            self._task.add_done_callback(_seen)
        try:
            async with asyncio.timeout(deadline.left(self._clock.monotonic())):
                return await asyncio.shield(self._task)
        except TimeoutError:
            raise SiteTimeout(f"{self._origin.place} did not sign us in by the deadline.") from None

    def ended(self, token: str) -> bool:
        if token == self._token:  # else somebody has signed in anew already
            self._token = ""
        return True

    def hidden(self, error: E) -> E:
        return _hidden(error, self._credentials.password, self._token)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sign_in(self, deadline: Deadline) -> str:
        signed = {"X-Rucio-Username": self._credentials.username, "X-Rucio-Password": self._credentials.password}
        if self._account:
            signed["X-Rucio-Account"] = self._account
        signed["Accept"] = "application/octet-stream, */*"
        origin = self._origin
        try:
            answer = await origin.send("GET", origin.at("auth", "userpass"), deadline=deadline, headers=signed)
        except SiteError as error:
            raise self.hidden(error) from None
        token = self._told(answer)
        self._token, self._until = token, self._clock.monotonic() + _lasts(answer)
        return token

    def _told(self, answer: Answer) -> str:
        """The token. Nothing of what a refusal says is shown: it was sent the password."""
        place = self._origin.place
        if answer.status in (401, 403):
            account = f" for the account {self._account}" if self._account else ""
            raise SiteForbids(
                f"{place} does not sign in {self._credentials.username}{account} with the password that it was given.",
                remedy="The operator mends the catalogue's credentials.",
            )
        if answer.status != 200:
            raise self.hidden(failure(answer, place, self._clock.now()))
        token = answer.headers.get("X-Rucio-Auth-Token", "")
        if not _TOKEN.fullmatch(token):
            raise SiteMisbehaved(f"{place} answered the log-in without a token: it may be no Rucio.")
        return token


def _lasts(answer: Answer) -> float:
    """Seconds for which a token may be used, by the clock of the server that gave it."""
    ends, told = (http_date(answer.headers.get(name, "")) for name in ("X-Rucio-Auth-Token-Expires", "Date"))
    life = UNSAID if ends is None or told is None else max(0.0, ends - told)
    return life - min(EARLY, life / 10)


def _hidden(error: E, *secrets: str) -> E:
    for secret in filter(None, secrets):
        for length in range(len(secret), min(_SHORTEST, len(secret)) - 1, -1):
            error.detail = error.detail.replace(secret[:length], "…")
    error.args = (error.detail,)
    return error


def _seen(task: asyncio.Task[str]) -> None:
    """Whoever waited has it; where nobody does any more, an error is none to complain of."""
    if not task.cancelled():
        task.exception()
