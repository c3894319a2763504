"""The command of whoever sees to acceptances in doubt. Imports the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from broker.cli import desk as desks
from broker.cli.desk import Desk
from broker.cli.exits import Exit
from broker.cli.jobs import Json
from broker.cli.lists import print_rows
from broker.client.broker import Broker
from broker.client.sessions import Session
from broker.client.words import plain, short
from broker.domain.quantities import parse_instant
from broker.errors import BadInput, NotFound


def resolve(
    context: typer.Context,
    session: Annotated[str | None, typer.Argument(help="the session, or how its uuid begins")] = None,
    taken: Annotated[
        bool | None, typer.Option("--taken/--not-taken", help="the site took it; it surely did not", show_default=False)
    ] = None,
    because: Annotated[str | None, typer.Option(help="who at the site said so, or where it was seen")] = None,
    json: Json = False,
) -> None:
    """List the acceptances in doubt, or say how one of them ended: for operators who have asked at the site."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        if session is None and (taken is not None or because):
            raise BadInput("which session is wanted.", remedy="See: broker resolve")
        doubts = await broker.doubts()
        if session is None:
            return _list(desk, doubts, json=json)
        if taken is None or not (because and because.strip()):
            raise BadInput(
                "how it ended is wanted, and who said so.", remedy='Add --taken or --not-taken, and --because "…".'
            )
        ended = await broker.resolve(_named(doubts, session), taken=taken, because=because)
        if json:
            desk.screen.json(ended.document.to_wire())
        else:
            desk.screen.say(f"session {short(ended.uuid)}: {ended.state}")
            _what_followed(desk, ended)
        return Exit.DONE

    desk.run(work)


def _what_followed(desk: Desk, ended: Session) -> None:
    """Whether something else was accepted in its place, or its site asked anew."""
    items = (ended.document.meta.messages if ended.document.meta else None) or ()
    if items and items[-1].kind in ("uri:accepted-instead", "uri:asked-anew"):
        desk.screen.note(ended.messages[-1])


def _list(desk: Desk, doubts: Sequence[Mapping[str, Any]], *, json: bool) -> int:
    if json:
        desk.screen.json({"doubts": list(doubts)})
    elif not doubts and desk.screen.tty:
        desk.screen.note("no acceptance is in doubt.")
    else:
        heads = ("SESSION", "SITE", "JOB THERE", "OWNER", "SINCE", "TRIES", "REASON")
        print_rows(desk.screen, heads, [_row(desk, doubt) for doubt in doubts])
    return Exit.DONE


def _row(desk: Desk, doubt: Mapping[str, Any]) -> list[object]:
    uuid = str(doubt.get("session") or "")
    return [
        short(uuid) if desk.screen.tty else uuid,
        doubt.get("site"),
        doubt.get("native") or doubt.get("handle"),
        doubt.get("owner"),
        parse_instant(doubt.get("since")),
        doubt.get("tries"),
        doubt.get("reason"),
    ]


def _named(doubts: Sequence[Mapping[str, Any]], text: str) -> str:
    """The whole uuid. One that is given whole is taken as it is: it may have been resolved already."""
    digits = text.lower().replace("-", "")
    if len(digits) == 32:
        return text
    uuids = [str(doubt.get("session")) for doubt in doubts]
    found = [uuid for uuid in uuids if digits and uuid.replace("-", "").startswith(digits)]
    if len(found) > 1:
        raise BadInput(f'"{plain(text)}" may mean {", ".join(map(short, found))}.', remedy="Give more of the uuid.")
    if not found:
        raise NotFound(f'"{plain(text)}" is not in doubt.', remedy="See: broker resolve")
    return found[0]
