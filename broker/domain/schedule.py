"""Schedules: of components (lifecycle) and of sessions, which have the same form. Imports the domain's base.

Source: Lifecycle*, Schedule* and ScheduledExecutionSchedule in execution-broker-1.0.openapi.json.
"""

from __future__ import annotations

from broker.domain.base import Model, Text
from broker.domain.quantities import Duration, Instant, Interval


class ScheduleDuration(Model):
    duration: Duration | None = None


class ScheduleStartDurationInstant(Model):
    start: Instant | None = None
    duration: Duration | None = None


class ScheduleStartDurationInterval(Model):
    start: Interval | None = None
    duration: Duration | None = None


class ScheduleDoneDurationInterval(Model):
    done: Interval | None = None
    duration: Duration | None = None


class LifecycleDuration(ScheduleDuration): ...


class LifecycleStartDurationInstant(ScheduleStartDurationInstant): ...


class LifecycleStartDurationInterval(ScheduleStartDurationInterval): ...


class LifecycleDoneDurationInterval(ScheduleDoneDurationInterval): ...


class ScheduledExecutionSchedule(Model):
    preparing: ScheduleStartDurationInstant | None = None
    available: ScheduleStartDurationInterval | None = None
    releasing: ScheduleStartDurationInstant | None = None


class LifecycleSchedule(ScheduledExecutionSchedule):
    preparing: LifecycleStartDurationInstant | None = None
    available: LifecycleStartDurationInterval | None = None
    releasing: LifecycleStartDurationInstant | None = None


class MinMaxDuration(Model):
    min: Text | None = None
    max: Text | None = None
