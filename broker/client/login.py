"""Which broker to ask, and as whom: argument, environment, stored login, in that order. Imports errors and yarl.

The login lives in `broker/login.json` under XDG_CONFIG_HOME (`~/.config`), readable by its owner alone. Variables:
BROKER_URL; BROKER_USER and BROKER_PASSWORD, or BROKER_TOKEN. Stored credentials go to the stored origin only.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from yarl import URL

from broker.client.errors import NoBroker
from broker.client.words import clock
from broker.errors import BadInput, NotSignedIn


@dataclass(frozen=True)
class Login:
    """A broker's base URL and what signs us in there. The repr hides the secrets. `source`: where they are from, the
    name of a variable or `stored`; empty: from an argument, or there are none."""

    url: URL
    username: str = ""
    password: str = ""
    token: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return f"Login({self.url}, {self.username or 'anonymous'}, …)"

    def header(self, url: URL) -> dict[str, str]:
        """The Authorization header for a call to `url`; empty for another origin, whatever led there."""
        if url.origin() != self.url.origin():
            return {}
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if self.username:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}


def signed_out(login: Login | None, url: URL, error: NotSignedIn, now: datetime) -> NotSignedIn:
    """A broker's 401 in words that say whose credential it is, when it ended where that can be known, and who acts.
    What runs goes on without it."""
    if login is None or not login.header(url):
        where = login.url if login and login.url.origin() == url.origin() else url.origin()
        theirs = error.remedy if "broker login" not in error.remedy else ""
        return NotSignedIn(error.detail, remedy=theirs or f"Run: broker login {where} --user NAME")
    if not login.source:
        return error
    ended = _ended(login.token)
    when = f"ended {clock(ended, None, now)}" if ended and ended <= now else "is not taken"
    whose = f"your login at {url.host}" if login.source == "stored" else f"{login.source} for {url.host}"
    user = f" --user {login.username}" if login.username else " --token-file FILE"
    act = f"Run: broker login {login.url}{user}" if login.source == "stored" else "Set it anew"
    return NotSignedIn(f"{whose} {when} ({error.detail.rstrip('.')}). What runs goes on.", remedy=f"{act}.")


def _ended(token: str) -> datetime | None:
    """When a token says that it ends; None where it is no JSON Web Token, or does not say."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (IndexError, ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def parse(text: str) -> Login:
    """A broker's URL, with or without a final slash; `user:password@` in it becomes the credentials."""
    try:
        url = URL(text.strip())
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise BadInput(f'"{text}" is no broker\'s URL.', remedy="Write it as https://broker.example")
    base = url.with_user(None).with_query(None).with_fragment(None)
    return Login(base.with_path(base.path.rstrip("/")), url.user or "", url.password or "")


def find(
    url: str | None = None,
    *,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Login:
    """Raises NoBroker where nothing names one."""
    stored = load(environ)
    named = url or environ.get("BROKER_URL")
    login = parse(named) if named else stored
    if login is None:
        raise NoBroker("no broker known.", remedy="Run: broker login URL, or try: make demo")
    source = ""
    if not (username or token):
        username, token = environ.get("BROKER_USER"), environ.get("BROKER_TOKEN")
        source = "BROKER_TOKEN" if token else "BROKER_PASSWORD" if username else ""
    if token:
        return replace(login, username="", password="", token=token, source=source)
    if username:
        secret = password if password is not None else environ.get("BROKER_PASSWORD", "")
        return replace(login, username=username, password=secret, token="", source=source)
    if stored and not login.username and stored.url.origin() == login.url.origin():
        return replace(stored, url=login.url)
    return login


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(home) / "broker"


def load(environ: Mapping[str, str] = os.environ) -> Login | None:
    """The stored login; None where there is none. Raises BadInput for a file that cannot be read."""
    path = config_folder(environ) / "login.json"
    try:
        entry = json.loads(path.read_text())
        username, password, token = (str(entry.get(key) or "") for key in ("username", "password", "token"))
        return replace(parse(entry["url"]), username=username, password=password, token=token, source="stored")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{path} cannot be read.", remedy="Run: broker login URL") from None


def store(login: Login, environ: Mapping[str, str] = os.environ) -> Path:
    """Write the login whole or not at all, with mode 600. Returns where."""
    folder = config_folder(environ)
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"url": str(login.url), "username": login.username, "password": login.password, "token": login.token}
    path, fresh = folder / "login.json", folder / f".login.{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({key: value for key, value in entry.items() if value}, file)
    fresh.replace(path)
    return path
