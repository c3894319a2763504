"""Fixtures of the stores' tests."""

import pytest

SUITES = ("stores", "store_timers", "store_lists", "calendars", "limits")
pytest.register_assert_rewrite(*(f"broker.testing.{suite}" for suite in SUITES))
