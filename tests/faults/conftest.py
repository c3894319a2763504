"""What the tests with faults share: networks of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.testing.netns import Networks, hindrance, two_networks


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
