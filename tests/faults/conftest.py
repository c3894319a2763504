"""What the tests with faults share: brokers as processes, people who call them, networks of their own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.testing.desk import PATIENCE, Desk
from broker.testing.netns import Networks, hindrance, two_networks
from broker.testing.program import Caller, Program

Start = Callable[..., Desk]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield session


@pytest.fixture
def start(tmp_path: Path, http: aiohttp.ClientSession) -> Iterator[Start]:
    """Starts a broker, and kills it at the end."""
    started: list[Program] = []

    def start_(name: str = "federation", *, folder: Path = tmp_path, **settings: Any) -> Desk:
        started.append(Program(folder, name, **settings))
        return Desk(started[-1].start(), Caller(http))

    yield start_
    for program in started:
        program.kill()


@pytest.fixture
def networks() -> Iterator[Networks]:
    want_networks()
    with two_networks() as pair:
        yield pair


@pytest.fixture
def mute_networks() -> Iterator[Networks]:
    """Whoever asks for a name in `here` asks at `there`, where nobody answers until a test has somebody do so. One name
    is known without asking."""
    want_networks()
    with two_networks(resolver="10.231.0.2", known="known.example") as pair:
        yield pair


def want_networks() -> None:
    if reason := hindrance():
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
