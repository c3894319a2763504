"""Numbers as people read them."""

import pytest

from broker.domain.words import amount, length, money, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.2, "1.20"), (0.005, "0.01"), (0.0042, "0.0042"), (3e-9, "3.0e-09"), (1234567.891, "1234567.89"),
     (1e15, "1e+15"), (-0.8, "-0.80")],
)  # fmt: skip
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


def test_signs_and_currencies() -> None:
    assert (amount(1.68, sign=True), amount(-0.8, sign=True)) == ("+1.68", "-0.80")
    assert money(1.2, "EUR") == "1.20 EUR"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (84.2e9, "84.2 GB"), (999.4e6, "999 MB"), (999.9e6, "1 GB"),
     (1.23456e12, "1.23 TB"), (7e15, "7 PB"), (7e20, "7e+05 PB")],
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (480, "8 min"), (3600, "60 min"), (5400, "1.5 h"), (11400, "3.2 h"),
     (7200, "2 h"), (36000, "10 h"), (172800, "2 d"), (1e7, "116 d")],
)  # fmt: skip
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert length(seconds) == text
