"""The commands of whoever looks after a broker's store: a copy of it, and a visit of the doctor.

Imports the screen; the store and the services only when they are asked for.

Both work on the store itself, by the settings file, whether brokers run on it or not.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from broker.cli import desk as desks
from broker.cli.exits import Exit
from broker.cli.jobs import Json
from broker.cli.lists import print_rows
from broker.cli.screen import Screen
from broker.cli.service import Config, named
from broker.client.words import plain
from broker.errors import BadInput

if TYPE_CHECKING:
    from broker.services.doctor import Report
    from broker.services.findings import Finding


def backup(
    context: typer.Context, config: Config, file: Annotated[Path, typer.Argument(help="the copy; not there yet")]
) -> None:
    """Copy the store, while the broker runs or not; the copy is checked."""
    from broker.settings import load_settings
    from broker.store.backup import backup as copy
    from broker.store.opening import is_address

    with named(config):
        store = load_settings(config).store
        if is_address(store):
            raise BadInput("the store is a Redis.", remedy="Copy it by Redis's own means: see docs/howto/backup.md.")
        size = copy(Path(store), file)
    desks.of(context).screen.say(f"Wrote {plain(file)}: {size} bytes, found whole (PRAGMA integrity_check).")


def doctor(
    context: typer.Context,
    config: Config,
    mend: Annotated[
        bool, typer.Option("--mend", help="make anew what follows from the records; give offers back")
    ] = False,
    cancel_orphans: Annotated[
        bool, typer.Option("--cancel-orphans", help="with --mend: cancel jobs that nobody follows any more")
    ] = False,
    json: Json = False,
) -> None:
    """Look through the store, and at the sites, for what is not as it should be. The exit code is 1 when something is
    left to be done."""
    from broker.settings import load_settings
    from broker.wiring import configure_logging, open_doctor

    if cancel_orphans and not mend:
        raise BadInput("--cancel-orphans mends.", remedy="Add --mend.")
    with named(config):
        settings = load_settings(config)
        quiet = settings.log.model_copy(update={"level": "error"})  # what is found is said below
        configure_logging(settings.model_copy(update={"log": quiet}))

        async def visit() -> Report:
            async with open_doctor(settings, mend=mend, cancel=cancel_orphans) as doctor:
                return await doctor.visit()

        report = asyncio.run(visit())
    screen = desks.of(context).screen
    if json:
        screen.json(msgspec.to_builtins(report))
    else:
        _show(screen, report, mend=mend)
    raise typer.Exit(Exit.RUN_FAILED if report.left else Exit.DONE)


def _show(screen: Screen, report: Report, *, mend: bool) -> None:
    if report.findings and not screen.tty:
        rows = [(at.level, at.what, at.where, at.says, _then(at)) for at in report.findings]
        print_rows(screen, ("LEVEL", "WHAT", "WHERE", "SAYS", "MENDING"), rows)
    elif report.findings:
        for at in report.findings:  # sentences, which a table would cut off
            screen.say(
                f"{at.level:<5}  {at.what:<10}  {plain(at.where)}\n       {plain(at.says)}\n       Mending: {_then(at)}"
            )
    for site, why in report.unasked.items():
        screen.note(f"{plain(site)} was not asked what it has for us: {plain(why)}")
    screen.note(_sum(report, mend=mend))
    if not mend and any(at.mends for at in report.findings):
        screen.note("To mend what can be: add --mend.")


def _sum(report: Report, *, mend: bool) -> str:
    count = len(report.findings)
    said = f"{report.sets} {'set' if report.sets == 1 else 'sets'} looked at"
    if not count:
        return f"{said}, all is well."
    found = f"{count} {'thing' if count == 1 else 'things'} found"
    return f"{said}, {found}, {count - report.left} mended." if mend else f"{said}, {found}."


def _then(finding: Finding) -> str:
    return "done." if finding.mended else f"{finding.mends or 'by hand'}."
