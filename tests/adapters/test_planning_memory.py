"""The in-memory calendar and limits keep what the ports promise, so that tests on them mean something."""

from __future__ import annotations

import pytest

from broker.testing.calendars import CalendarContract
from broker.testing.clock import FakeClock
from broker.testing.limits import LimitsContract
from broker.testing.memory import MemoryCalendar, MemoryLimits


class TestMemoryCalendar(CalendarContract):
    @pytest.fixture
    def calendar(self) -> MemoryCalendar:
        return MemoryCalendar()


class TestMemoryLimits(LimitsContract):
    @pytest.fixture
    def limits(self, clock: FakeClock) -> MemoryLimits:
        return MemoryLimits(clock)
