"""The command `open`: an interactive session, in the browser of whoever asked for it. Imports the client.

The address of a connector lets in whoever holds it. It is shown only when it is asked for, and only http and https are
handed to a browser: a site may write anything there.
"""

from __future__ import annotations

import asyncio
import webbrowser
from typing import Annotated
from urllib.parse import urlsplit

import typer

from broker.cli import desk as desks
from broker.cli.exits import Exit
from broker.cli.jobs import Handle
from broker.client.broker import Broker
from broker.client.sessions import Session
from broker.client.words import plain, short
from broker.errors import Conflict, NotAllowed, NotFound


def open_(
    context: typer.Context,
    handle: Handle,
    print_: Annotated[bool, typer.Option("--print", help="print the address, and open no browser")] = False,
) -> None:
    """Open an interactive session in the browser. Its address lets in whoever holds it."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        session = await desk.session(broker, handle)
        location = address(session)
        shown = desk.screen.tty and not print_ and urlsplit(location).scheme in ("http", "https")
        if shown and await asyncio.to_thread(webbrowser.open, location):
            desk.screen.note(f"session {short(session.uuid)} at {session.site}: opened in the browser")
        else:
            desk.screen.say(plain(location))
        return Exit.DONE

    desk.run(work)


def address(session: Session) -> str:
    """Where the session is reached. Raises Conflict before and after it can be, NotFound where it never can, NotAllowed
    where it is somebody else's."""
    name = f"session {short(session.uuid)}"
    connectors = session.document.connectors or ()
    for connector in connectors:
        if connector.location and connector.status in (None, "AVAILABLE"):
            return connector.location
    if session.ended:
        raise Conflict(f"{name} is {session.phase}.", remedy=f"What it left: broker fetch {short(session.uuid)}")
    if any(connector.status == "AVAILABLE" for connector in connectors):
        raise NotAllowed(f"{name} is opened by whoever asked for it.", remedy="Ask its owner.")
    if connectors or session.phase in ("ACCEPTED", "WAITING", "PREPARING"):
        raise Conflict(f"{name} is {session.phase}: there is nothing to open yet.",
                       remedy=f"Follow it: broker watch {short(session.uuid)}")  # fmt: skip
    if session.open:
        raise Conflict(f"{name} is only offered.", remedy=f"First: broker accept {short(session.uuid)}")
    raise NotFound(f"{name} has nothing to open: it runs by itself.", remedy="Ask with: executable.mode: interactive")
