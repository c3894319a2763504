"""`broker open`: the address of an interactive session, for its owner, when there is one."""

from __future__ import annotations

import webbrowser
from typing import Any

import pytest

from broker.domain.session import SessionPhase, SimpleSessionConnector
from broker.testing.broker import FakeBroker, drawn_offers

LOCATION = "https://alba.example/lab/tree/fit.ipynb?token=sesame"


def shown(fake: FakeBroker, phase: str, *connectors: dict[str, str]) -> None:
    """The session 91c2 in that phase."""
    offered = drawn_offers()[0]
    assert offered.uuid is not None
    held = tuple(SimpleSessionConnector(**connector) for connector in connectors)
    fake.scripts[offered.uuid] = [offered.with_(phase=SessionPhase(phase), connectors=held or None)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a browser was asked for; it takes whatever comes."""
    asked: list[str] = []

    def take(url: str) -> bool:
        asked.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", take)
    return asked


@pytest.fixture
async def accepted(run: Any) -> None:
    await run("accept", "91c2")


@pytest.mark.usefixtures("accepted")
async def test_it_opens_the_browser_at_a_terminal(run: Any, fake: FakeBroker, opened: list[str]) -> None:
    shown(fake, "AVAILABLE", {"status": "AVAILABLE", "protocol": "HTTPS", "location": LOCATION})
    ran = await run("open", "91c2", tty=True)
    assert (ran.code, opened) == (0, [LOCATION])
    assert "sesame" not in ran.out + ran.err


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(("options", "tty"), [(("--print",), True), ((), False)])
async def test_it_prints_the_address_into_a_pipe_and_when_asked(
    run: Any, fake: FakeBroker, opened: list[str], options: tuple[str, ...], tty: bool
) -> None:
    shown(fake, "AVAILABLE", {"status": "AVAILABLE", "location": LOCATION})
    ran = await run("open", "91c2", *options, tty=tty)
    assert (ran.code, ran.out, opened) == (0, f"{LOCATION}\n", [])


@pytest.mark.usefixtures("accepted")
async def test_a_browser_is_given_nothing_but_web_addresses(run: Any, fake: FakeBroker, opened: list[str]) -> None:
    shown(fake, "AVAILABLE", {"status": "AVAILABLE", "location": "file:///etc/\x1b]passwd"})
    ran = await run("open", "91c2", tty=True)
    assert (ran.out, opened) == ("file:///etc/?]passwd\n", [])


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    ("phase", "connector", "code", "words"),
    [
        ("PREPARING", {"status": "PREPARING"}, 3, "there is nothing to open yet. Follow it: broker watch 91c2"),
        ("WAITING", None, 3, "there is nothing to open yet"),
        ("COMPLETED", {"status": "FINISHED"}, 3, "is COMPLETED. What it left: broker fetch 91c2"),
        ("AVAILABLE", {"status": "AVAILABLE"}, 4, "is opened by whoever asked for it"),
        ("RUNNING", None, 2, "has nothing to open: it runs by itself"),
    ],
)
async def test_what_cannot_be_opened_is_said_with_what_to_do(
    run: Any, fake: FakeBroker, opened: list[str], phase: str, connector: dict[str, str] | None, code: int, words: str
) -> None:
    shown(fake, phase, *([connector] if connector else []))
    ran = await run("open", "91c2", tty=True)
    assert (ran.code, opened) == (code, [])
    assert words in ran.err


async def test_an_offer_is_to_be_accepted_first(run: Any, opened: list[str]) -> None:
    ran = await run("open", "91c2", tty=True)
    assert (ran.code, opened) == (3, [])
    assert "is only offered. First: broker accept 91c2" in ran.err
