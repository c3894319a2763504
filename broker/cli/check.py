"""The command `check`: whether a service is an Execution Broker, and which. Imports the checker when it is run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import desk as desks
from broker.cli.desk import INTERRUPTED
from broker.cli.exits import Exit
from broker.cli.jobs import Json
from broker.client import login as logins
from broker.client.login import Login
from broker.errors import BadInput, BrokerError


def check(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="the service's address; user:password@ in it signs in")],
    json: Json = False,
    junit: Annotated[Path | None, typer.Option(help="write the findings there as JUnit XML as well")] = None,
    request: Annotated[
        Path | None, typer.Option(help="ask for this in place of a small container: a request, YAML or JSON")
    ] = None,
    patience: Annotated[float, typer.Option(min=0.1, max=600, help="seconds to wait for one answer")] = 30.0,
) -> None:
    """Say what any Execution Broker speaks and conforms to. Nothing is accepted, every offer is given back."""
    from broker.checker import checking, reports

    screen = desks.of(context).screen
    login, asked = _login(url), _request(request)
    try:
        report = asyncio.run(checking.check(login, request=asked, patience=patience))
    except KeyboardInterrupt:
        screen.note("Stopped. What was offered until then was given back.")
        raise typer.Exit(INTERRUPTED) from None
    if junit:
        try:
            junit.write_bytes(reports.junit(report))
        except OSError as error:
            raise BadInput(f"{junit}: {error.strerror}.") from None
    if json:
        screen.json(reports.document(report))
    else:
        screen.say(reports.text(report, screen.width))
    raise typer.Exit(Exit.LOG_IN if report.signed_out else Exit.DONE if report.conforms else Exit.RUN_FAILED)


def _login(url: str, environ: Mapping[str, str] = os.environ) -> Login:
    """Credentials of the address itself; else what is known for its origin, and for no other: what is checked may be
    anybody's."""
    named = logins.parse(url)
    if named.username:
        return named
    variables = dict(environ)
    home = variables.pop("BROKER_URL", "")
    if not home or logins.parse(home).url.origin() != named.url.origin():
        for name in ("BROKER_USER", "BROKER_PASSWORD", "BROKER_TOKEN"):
            variables.pop(name, None)
    return replace(logins.find(url, environ=variables), url=named.url)


def _request(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from broker.api.yamltext import decode_yaml

    try:
        document = decode_yaml(path.read_bytes())  # JSON is YAML
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}.") from None
    except BrokerError as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path} holds no request.")
    return document
