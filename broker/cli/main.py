"""The `broker` command: its commands, put together, and the one place where an error becomes a line and a code.

Imports everything else of the command line; the server only when `serve` is asked for.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from broker.cli import desk as desks
from broker.cli import doubts, jobs, keeping, opening, service, sites, starting
from broker.cli.check import check
from broker.cli.desk import INTERRUPTED, Desk
from broker.cli.exits import Exit, code, one_line
from broker.cli.memory import Memory
from broker.cli.screen import Screen
from broker.client.words import plain
from broker.errors import BrokerError

_JOBS: tuple[Callable[..., None], ...] = (
    jobs.submit, jobs.offers, jobs.accept, jobs.reject, jobs.watch, jobs.logs, jobs.fetch, jobs.cancel, jobs.sessions,
)  # fmt: skip
_SERVICE: tuple[Callable[..., None], ...] = (
    service.status, service.kinds, service.login, service.password, service.serve,
)  # fmt: skip


def main(argv: Sequence[str] | None = None, desk: Desk | None = None) -> int:
    """Run one command; the returned exit code is one of `exits.Exit`, or 130. The entry point passes nothing."""
    desk = desk or Desk(Screen.real(), Memory.real())
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return int(build()(arguments, desk) or 0)
    except BrokerError as error:
        desk.screen.note(one_line(error))
        return code(error)
    except TyperException as error:
        desk.screen.note(_usage(error))
        return Exit.BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone. Python would complain once more at exit, on the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.RUN_FAILED


def _usage(error: TyperException) -> str:
    text = " ".join(plain(error.format_message()).split())
    for kind, wanted in (("integer", "a whole number"), ("number", "a number")):
        text = re.sub(rf"Input should be a valid {kind}, [^.]*$", f"{wanted} is wanted.", text)
    return f"broker: {text} See: broker --help"


class _Command:
    """The command line as one call, without the library's own way of ending the process."""

    def __init__(self, app: typer.Typer) -> None:
        self._command = typer.main.get_command(app)

    def __call__(self, arguments: list[str], desk: Desk) -> int | None:
        outcome = self._command.main(args=arguments, prog_name="broker", standalone_mode=False, obj=desk)
        return outcome if isinstance(outcome, int) else None


def build() -> _Command:
    app = typer.Typer(
        help="Ask every science platform at once where and when it can run, what it costs, and take the best.",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for command in _JOBS:
        app.command()(command)
    app.command("open")(opening.open_)
    app.add_typer(_sites(), name="sites", help="List, add, drain and remove sites; see what their promises are worth.")
    app.command()(doubts.resolve)
    for command in _SERVICE:
        app.command()(command)
    app.command()(starting.init)
    app.command("check-config")(service.check_config)
    app.command()(check)
    app.command()(keeping.backup)
    app.command()(keeping.doctor)
    return _Command(app)


def _sites() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)

    @app.callback(invoke_without_command=True)
    def _default(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            sites.list_(context)

    app.command("list")(sites.list_)
    for command in (sites.show, sites.put, sites.delete, sites.drain, sites.resume, sites.promises, sites.forget):
        app.command()(command)
    return app


def _options(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option("--url", help="the broker; else BROKER_URL, else what login stored")
    ] = None,
) -> None:
    desks.of(context).url = url


if __name__ == "__main__":
    sys.exit(main())
