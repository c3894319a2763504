"""Bearer tokens for a platform's server: from a file, from a command, or from an OpenID Connect provider. Imports the
HTTP of this package, the ports, pydantic.

A token is renewed before it ends, by one renewal at a time for all who wait for it. When it ends is read from the token
itself where it is a JWT (RFC 7519, 4.1.4), else from what the provider says (RFC 6749, 5.1), else from `lifetime`.
"""

from __future__ import annotations

import asyncio
import binascii
import os
import re
import select
import signal
import subprocess
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote_plus, urlencode

import aiohttp
import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from yarl import URL

from adapters.common.http import Answer, Origin, failure
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.quantities import Duration, format_instant
from broker.errors import (
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials
from broker.ports import Clock

T = TypeVar("T")

EARLY = 60.0  # seconds before its end from which a token is not used; a tenth of its life, where that is less
REFUSED = 60.0  # seconds for which a token that was not taken is not tried again, should its source give no other
BY_HAND = "What it said is kept to itself: the broker's operator runs it by hand, under the broker's account."
ACTS = "The broker's operator renews it."
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_CAP = 65_536  # bytes of an answer, of a file, of what a command prints
_TICK = 0.1  # seconds between two looks at whether a command has ended, and too few to ask anybody anything


class OidcOptions(BaseModel):
    """A client of an OpenID Connect provider, which signs in by itself (RFC 6749, 4.4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_url: str = Field(description="the provider's token endpoint")
    client_id: str = Field(description="as it is registered there")
    client_secret_file: Path = Field(description="its first line is the client's secret")
    scope: str = Field("", description="what is asked for; empty: what the provider gives by itself")
    audience: str = Field("", description="for whom the token is to be, sent as `audience` and as `resource`")


class TokenOptions(BaseModel):
    """Where tokens come from: one of the three."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_file: Path | None = Field(None, description="its first line is the token; read again when it changes")
    token_command: tuple[str, ...] = Field((), description="a command that prints a token; run again before it ends")
    oidc: OidcOptions | None = Field(None, description="an OpenID Connect provider that gives them")
    lifetime: Annotated[Duration, Field(gt=timedelta(0))] | None = Field(
        None, description="how long a token serves that does not itself say when it ends; absent: until it is refused"
    )

    @model_validator(mode="after")
    def _one(self) -> TokenOptions:
        if sum(map(bool, (self.token_file, self.token_command, self.oidc))) != 1:
            raise ValueError("one of token_file, token_command and oidc is wanted")
        return self


class Token(NamedTuple):
    """`ends`: epoch seconds; None: not known. `text` never reaches logs: it is given to `Tokens` alone."""

    text: str
    ends: float | None

    def __repr__(self) -> str:
        return "Token(…)"


class Source(Protocol):
    async def get(self, deadline: Deadline) -> Token:
        """A token, new if there is a new one. Raises SiteForbids where there is none to be had, other SiteErrors where
        that cannot be told. No error holds a secret."""


class Tokens:
    """The tokens of one account at one server. `place`: how the server is called in messages."""

    def __init__(self, source: Source, clock: Clock, place: str) -> None:
        self._source, self._clock, self._place = source, clock, place
        self._token: Token | None = None
        self._from = 0.0  # epoch seconds since which the token is ours
        self._refused: tuple[str, float] | None = None
        self._task: asyncio.Task[Token] | None = None
        self._until = Deadline(0.0)  # of the task

    async def token(self, deadline: Deadline) -> str:
        """One that has not ended and was not refused. Raises SiteForbids saying what ended and who acts, other
        SiteErrors where the source could not be asked; all with proof, for nothing was sent to the server."""
        while True:
            if self._token is not None and not self._used_up(self._token):
                return self._token.text
            theirs = self._task if self._task is not None and not self._task.done() else None
            task, until = theirs or self._begin(deadline), self._until
            left = deadline.left(self._clock.monotonic())
            # Where the present one still serves, time is left to send it.
            serves = self._token is not None and not self._is_over(self._token)
            try:
                async with asyncio.timeout(left / 2 if serves else left):
                    return (await asyncio.shield(task)).text
            except (TimeoutError, SiteError) as error:
                if self._token is not None and not self._is_over(self._token):
                    return self._token.text  # it serves until its end
                if isinstance(error, SiteForbids | SiteBusy):
                    raise
                now = self._clock.monotonic()
                if theirs and task.done() and until.left(now) < _TICK < deadline.left(now):
                    continue  # that was by another's deadline
                if isinstance(error, SiteUnreachable):
                    raise
                why = getattr(error, "detail", "it did not come by the deadline.")
                raise SiteUnreachable(f"{self._place} was not asked, for want of a token: {why}") from None

    def rejected(self, token: str) -> None:
        """The server did not take it: a new one is got for the next call. Idempotent."""
        self._refused = (token, self._clock.now() + REFUSED)
        if self._token is not None and self._token.text == token:  # else somebody has renewed it already
            self._token = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self, deadline: Deadline) -> asyncio.Task[Token]:
        self._task, self._until = asyncio.create_task(self._renew(deadline)), deadline
        self._task.add_done_callback(_seen)
        return self._task

    async def _renew(self, deadline: Deadline) -> Token:
        token, now = await self._source.get(deadline), self._clock.now()
        if token.ends is not None and token.ends <= now:
            when = format_instant(round(token.ends))
            raise SiteForbids(f"the token for {self._place} ended {when}, and its source gives no other. {ACTS}")
        if self._refused is not None and self._refused[0] == token.text and now < self._refused[1]:
            raise SiteForbids(f"{self._place} does not take the token, and its source gives no other. {ACTS}")
        self._token, self._from = token, now
        return token

    def _is_over(self, token: Token) -> bool:
        return token.ends is not None and token.ends <= self._clock.now()

    def _used_up(self, token: Token) -> bool:
        if token.ends is None:
            return False
        return self._clock.now() >= token.ends - min(EARLY, (token.ends - self._from) / 10)


def tokens(options: TokenOptions, http: aiohttp.ClientSession, clock: Clock, place: str) -> Tokens:
    """No I/O. Raises SettingsError naming `oidc.token_url`, should that be no address."""
    lifetime = options.lifetime.total_seconds() if options.lifetime else None
    source: Source
    if options.oidc is not None:
        source = _Provider(options.oidc, http, clock)
    elif options.token_file is not None:
        source = _File(options.token_file, lifetime)
    else:
        source = _Command(options.token_command, lifetime, clock)
    return Tokens(source, clock, place)


def per_user(users: Mapping[str, T], owner: Owner) -> T | None:
    """Whose name is there by issuer and subject, `https://idp.example.org ada`, or by the subject alone; None: theirs
    is everybody's. A subject with a space counts with its issuer alone: it could be made up to read as another's."""
    alone = None if " " in owner.subject else users.get(owner.subject)
    return users.get(f"{owner.issuer} {owner.subject}", alone)


def ends(token: str) -> float | None:
    """When a JWT says that it ends, epoch seconds; None: it is none, or does not say. Nothing is verified: whoever it
    is for does that."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    with suppress(binascii.Error, msgspec.DecodeError, ValueError, OverflowError):
        claims = msgspec.json.decode(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=dict[str, Any])
        said = claims.get("exp")
        if isinstance(said, int | float) and not isinstance(said, bool) and 0 < said < 1e11:
            return float(said)
    return None


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _File:
    """Whoever writes the file renews the token."""

    def __init__(self, path: Path, lifetime: float | None) -> None:
        self._path, self._lifetime = path, lifetime

    async def get(self, deadline: Deadline) -> Token:
        try:
            text, written = await asyncio.to_thread(self._read)
        except OSError as error:
            raise SiteForbids(f"the file of the token cannot be read: {error.strerror}.") from None
        ends_by_age = written + self._lifetime if self._lifetime else None
        return _checked(text, "the file of the token", ends_by_age)

    def _read(self) -> tuple[str, float]:
        with self._path.open("rb") as file:
            return file.read(_CAP).decode(errors="replace"), self._path.stat().st_mtime


class _Command:
    """Its words stay unsaid: they may hold what it was given."""

    def __init__(self, command: tuple[str, ...], lifetime: float | None, clock: Clock) -> None:
        self._command, self._lifetime, self._clock = command, lifetime, clock

    async def get(self, deadline: Deadline) -> Token:
        name = Path(self._command[0]).name
        try:
            text, code = await asyncio.to_thread(self._run, deadline.left(self._clock.monotonic()))
        except OSError as error:
            raise SiteForbids(f"the command of the token, {name}, cannot be run: {error.strerror}.") from None
        if code == -signal.SIGKILL:
            raise SiteTimeout(f"the command of the token, {name}, did not end in time.")
        if code:
            raise SiteForbids(f"the command of the token, {name}, ended with {code}. {BY_HAND}")
        ends_by_age = self._clock.now() + self._lifetime if self._lifetime else None
        return _checked(text.decode(errors="replace"), f"the command of the token, {name},", ends_by_age)

    def _run(self, seconds: float) -> tuple[bytes, int]:
        """What it printed, and its exit code. It is killed with its children when the time is over."""
        until = time.monotonic() + seconds
        with subprocess.Popen(  # noqa: S603  the operator's command
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            text = _printed(process, until)
            if process.stdout:
                process.stdout.close()  # whoever prints without end gets SIGPIPE
            try:
                return text, process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)
                return text, process.wait()


def _printed(process: subprocess.Popen[bytes], until: float) -> bytes:
    """Until it closes its output or ends: an agent that it leaves behind may keep the output open for good."""
    text, pipe, ready = b"", process.stdout, select.poll()
    if pipe:
        ready.register(pipe, select.POLLIN)
    while pipe and len(text) < _CAP and (left := until - time.monotonic()) > 0:
        ended = process.poll() is not None  # before the look, so that nothing is missed
        if ready.poll(0 if ended else 1000 * min(left, _TICK)):
            piece = os.read(pipe.fileno(), _CAP)
            if not piece:
                break
            text += piece
        elif ended:
            break
    return text


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class _Provider:
    """Sends the client's secret to the token endpoint's origin, and nowhere else."""

    def __init__(self, options: OidcOptions, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._options, self._http, self._clock = options, http, clock
        try:
            self._place = Origin(http, options.token_url, clock).place
        except SettingsError as error:
            raise SettingsError(error.detail, key="oidc.token_url", remedy=error.remedy) from None

    async def get(self, deadline: Deadline) -> Token:
        options = self._options
        try:
            text = await asyncio.to_thread(options.client_secret_file.read_text)
        except (OSError, ValueError):
            raise SiteForbids("the file of the client's secret cannot be read.") from None
        # RFC 6749, 2.3.1: both are written as in a form before they go as Basic.
        name, secret = quote_plus(options.client_id), quote_plus(text.partition("\n")[0].strip())
        origin = Origin(self._http, options.token_url, self._clock, credentials=Credentials(name, secret))
        form = {"grant_type": "client_credentials", "scope": options.scope}
        form |= {"audience": options.audience, "resource": options.audience}
        body = urlencode({key: value for key, value in form.items() if value}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        # As it is written: an origin's base has lost its last slash, and some providers want it.
        answer = await origin.send("POST", URL(options.token_url), deadline=deadline, body=body, headers=headers)
        return self._told(answer)

    def _told(self, answer: Answer) -> Token:
        """Nothing of what a refusal says is shown but its code: it was sent the secret."""
        document = _object(answer.body)
        if answer.status in (400, 401, 403):
            code = document.get("error")
            said = f": {code}" if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else ""
            raise SiteForbids(f"{self._place} gives {self._options.client_id} no token{said}.")
        if answer.status != 200:
            raise failure(Answer(answer.status, answer.headers, b""), self._place, self._clock.now())
        lasts = document.get("expires_in")
        known = isinstance(lasts, int | float) and not isinstance(lasts, bool) and 0 < lasts < 1e9
        ends_by_age = self._clock.now() + float(lasts) if known else None  # type: ignore[arg-type] # `known` says it
        return _checked(document.get("access_token"), f"the answer of {self._place}", ends_by_age)


def _checked(text: object, source: str, ends_by_age: float | None) -> Token:
    first = text.strip().partition("\n")[0].strip() if isinstance(text, str) else ""
    # `scontrol token` prints a variable to be set.
    first = first.removeprefix("SLURM_JWT=")
    if not _TOKEN.fullmatch(first):
        raise SiteForbids(f"{source} holds no token.")
    said = ends(first)
    return Token(first, ends_by_age if said is None else said)


def _object(body: bytes) -> dict[str, Any]:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = msgspec.json.decode(body)
        if isinstance(document, dict):
            return document
    return {}


def _seen(task: asyncio.Task[Token]) -> None:
    """Whoever waited has it; where nobody does any more, an error is none to complain of."""
    if not task.cancelled():
        task.exception()
