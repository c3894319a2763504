"""The commands of whoever runs the federation: its sites, one by one. Imports the client."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from broker.cli import desk as desks
from broker.cli import lists
from broker.cli.jobs import Json
from broker.client.broker import Broker
from broker.client.compose import parse_span
from broker.client.documents import read
from broker.client.errors import BadRequestFile
from broker.client.words import plain
from broker.domain.faults import explain
from broker.domain.quantities import parse_instant
from broker.domain.site import Registration
from broker.errors import BadInput

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")

Name = Annotated[str, typer.Argument(help="name of the site")]


def list_(context: typer.Context, json: Json = False) -> None:
    """List the sites."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        lists.print_sites(desk.screen, await broker.sites(), json=json)

    desk.run(work)


def show(context: typer.Context, name: Name) -> None:
    """Print all that is known of a site, as JSON."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        desk.screen.json(await broker.site(name))

    desk.run(work)


def put(
    context: typer.Context,
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="its registration (.yaml, .json)")] = None,
    url: Annotated[str | None, typer.Option(help="its endpoint; enough for a broker")] = None,
    kind: Annotated[str | None, typer.Option(help="which adapter speaks to it")] = None,
    json: Json = False,
) -> None:
    """Register a site, or change it. It is probed before it goes live."""
    desk = desks.of(context)
    registration = _registration(name, file, url, kind)

    async def work(broker: Broker) -> None:
        site = await broker.put_site(name, registration)
        lists.print_sites(desk.screen, [site], json=json)

    desk.run(work)


def _registration(name: str, file: Path | None, url: str | None, kind: str | None) -> dict[str, Any]:
    """What the file and the options say; checked here, so that a slip is named with its line."""
    document = read(file) if file else None
    content = dict(document.content) if document else {}
    content |= {key: value for key, value in (("url", url), ("kind", kind)) if value is not None}
    if not content:
        raise BadInput("nothing says how the site is reached.", remedy="Give a file, or --url.")
    try:
        Registration.model_validate({**content, "name": name})
    except ValidationError as error:
        told = explain(error, Registration, content)
        line = document.line(told.element) if document else 0
        raise BadRequestFile(
            told.detail, element=told.element, remedy=told.remedy, file=str(file or ""), line=line
        ) from None
    return content


def delete(context: typer.Context, name: Name) -> None:
    """Forget a site. What runs there runs on, and is followed no more: drain it first."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        await broker.delete_site(name)
        desk.screen.say(f"{plain(name)}: gone")

    desk.run(work)


def drain(
    context: typer.Context,
    name: Name,
    until: Annotated[str | None, typer.Option(help="mon, 2026-11-29, 2026-11-29T08:00Z, or 2d from now")] = None,
) -> None:
    """Ask a site for nothing new; what runs goes on."""
    desk = desks.of(context)
    end = parse_until(until, desk.screen.clock()) if until else None

    async def work(broker: Broker) -> None:
        await broker.drain_site(name, end)
        word = f"until {until}" if until else "until: broker sites resume " + name
        desk.screen.say(f"{plain(name)}: draining {plain(word)}")

    desk.run(work)


def resume(context: typer.Context, name: Name) -> None:
    """Ask a drained site again."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        await broker.resume_site(name)
        desk.screen.say(f"{plain(name)}: asked again")

    desk.run(work)


def promises(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show what a site promised and what came of it, by which its offers are ranked, and how fast bytes reach it."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        lists.print_promises(desk.screen, await broker.site(name), json=json)

    desk.run(work)


def forget(context: typer.Context, name: Name) -> None:
    """Drop what was learned of a site: what it promises is taken as it is again, until it has shown otherwise."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        await broker.forget_site(name)
        desk.screen.say(f"{plain(name)}: what was learned of it is forgotten")

    desk.run(work)


def parse_until(text: str, now: datetime) -> datetime:
    """A weekday or a date means its first minute in this machine's zone. Raises BadInput."""
    word = text.strip().lower()
    if word[:3] in _DAYS and word.isalpha():
        ahead = (_DAYS.index(word[:3]) - now.astimezone().weekday()) % 7 or 7
        return _midnight(now.astimezone() + timedelta(days=ahead))
    try:
        if _DATE.match(word):
            return _midnight(datetime.fromisoformat(word))
        return parse_instant(re.sub(r"(T\d\d:\d\d)(Z|[+-]\d\d:\d\d)$", r"\1:00\2", text.strip()))
    except ValueError:
        pass
    try:
        return now + parse_span(text)
    except BadInput:
        raise BadInput(f'"{text}" is no end.', remedy="Write mon, 2026-11-29, 2026-11-29T08:00Z, or 2d.") from None


def _midnight(day: datetime) -> datetime:
    return datetime.combine(day.date(), time()).astimezone().astimezone(UTC)
