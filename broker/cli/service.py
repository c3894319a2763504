"""The commands around the broker itself: serve, check-config, status, login, password, kinds.

The server's own modules are imported where they are used, so that a user's command starts without them.
"""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from broker.cli import desk as desks
from broker.cli import lists
from broker.cli.desk import Desk
from broker.cli.jobs import Json
from broker.client import login as logins
from broker.client.broker import Broker
from broker.client.errors import Misanswered
from broker.client.words import plain
from broker.errors import BadInput, NotFound, SettingsError

Config = Annotated[Path, typer.Argument(help="the broker's configuration, YAML")]


def serve(config: Config) -> None:
    """Run a broker until it is told to stop."""
    from broker.server import run
    from broker.settings import load_settings

    with named(config):
        raise typer.Exit(run(load_settings(config)))


def check_config(
    context: typer.Context,
    file: Config,
    try_: Annotated[
        bool,
        typer.Option(
            "--try", help="call sites and catalogues, and say what the platform would offer; nothing is booked"
        ),
    ] = False,
) -> None:
    """Say whether a broker would start with this configuration; nothing is started, and no site is called without
    --try."""
    from broker.settings import load_settings
    from broker.trying import attempt
    from broker.wiring import check

    with named(file):
        for line in asyncio.run((attempt if try_ else check)(load_settings(file))):
            desks.of(context).screen.say(plain(line))


@contextmanager
def named(file: Path) -> Iterator[None]:
    """What is wrong with a setting is said with the file it was read from."""
    try:
        yield
    except SettingsError as error:
        error.file = error.file or str(file)
        raise


def status(context: typer.Context, json: Json = False) -> None:
    """Show how the federation stands: its sites, its sessions."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        lists.print_status(desk.screen, await broker.status(), json=json)

    desk.run(work)


def login(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="the broker's address, https://…")],
    user: Annotated[str | None, typer.Option(help="sign in as this user; the password is asked for")] = None,
    token_file: Annotated[Path | None, typer.Option(help="file that holds a token; - is the input")] = None,
) -> None:
    """Remember a broker, and how to sign in there, for every later command."""
    found = logins.parse(url)
    if token_file:
        found = replace(found, username="", password="", token=_secret(token_file))
    elif user or (found.username and not found.password):
        found = replace(found, username=user or found.username, password=_password(f"Password at {found.url.host}: "))
    desk = Desk(desks.of(context).screen, desks.of(context).memory, str(found.url))

    async def work(_: Broker) -> None:
        broker = Broker(str(found.url), username=found.username, password=found.password, token=found.token or None)
        try:
            await broker.whoami()
        except (NotFound, Misanswered):
            desk.screen.note("It answers, yet lists no sessions: handles there are whole uuids.")
        desk.screen.note(f"Stored in {logins.store(found)}")

    desk.run(work)


def _secret(path: Path) -> str:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}.") from None
    if not text.strip():
        raise BadInput(f"{path} holds no token.")
    return text.strip()


def _password(prompt: str) -> str:
    return getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def password(context: typer.Context) -> None:
    """Make the hash of a password, for `password_hash` in a broker's configuration."""
    from argon2 import PasswordHasher

    text = _password("Password: ")
    if not text:
        raise BadInput("an empty password is none.")
    desks.of(context).screen.say(PasswordHasher().hash(text))


def kinds(context: typer.Context) -> None:
    """List the kinds of executables and data, short and in full."""
    lists.print_kinds(desks.of(context).screen)
