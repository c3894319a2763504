"""Instants, durations, intervals, and ranges that stay ranges. Imports pydantic and the standard library.

All times are UTC. A text without a zone is read as UTC, since the standard's interval pattern allows one.
Patterns: execution-broker-1.0.openapi.json, ISO8601Instant, ISO8601Duration, ISO8601Interval.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import BeforeValidator, GetCoreSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

INSTANT = re.compile(r"^(\d{4}(?:-\d{2}){2}T\d{2}(?::\d{2}){2}(?>[^\/]+))$", re.ASCII)
DURATION = re.compile(
    r"^(-?)P(?=\d|T\d)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)([DW]))?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$",
    re.ASCII,
)
_DATE = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TIME = r"T(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:Z|[+\-](?:[01]\d|2[0-3]):[0-5]\d)?"
_MOMENT = re.compile(f"{_DATE}(?:{_TIME})?", re.ASCII)

# A year and a month have no fixed length; bookings need one. Nominal lengths, as most schedulers take them.
_SECONDS = {"Y": 365 * 86400, "Mo": 30 * 86400, "W": 7 * 86400, "D": 86400, "H": 3600, "M": 60}
_LONGEST = 10_000 * 365 * 86400  # longer cannot be added to any datetime
_TICK = timedelta(microseconds=1)


def parse_instant(text: object) -> datetime:
    """`2026-11-22T14:03:00Z` → aware UTC datetime. Raises ValueError, saying what is wanted."""
    if isinstance(text, datetime):
        return text.astimezone(UTC) if text.tzinfo else text.replace(tzinfo=UTC)
    if not isinstance(text, str) or len(text) > 100 or not INSTANT.fullmatch(text):
        raise ValueError("an instant with date, time and zone is wanted, such as 2026-11-22T14:03:00Z")
    return _moment(text)


def _moment(text: str) -> datetime:
    # Sites write up to nanoseconds; datetime holds microseconds.
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        moment = datetime.fromisoformat(trimmed)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no date and time: {error}") from None


def format_instant(moment: datetime | float) -> str:
    """With seconds and `Z`, as the standard's pattern and strict Java clients want; no needless fraction."""
    moment = moment.astimezone(UTC) if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return moment.isoformat().removesuffix("+00:00") + "Z"


def parse_duration(text: object) -> timedelta:
    """`PT1H30M` → timedelta; a year counts 365 days, a month 30. Raises ValueError."""
    if isinstance(text, timedelta):
        return text
    match = DURATION.fullmatch(text) if isinstance(text, str) and len(text) <= 100 else None
    if not match:
        raise ValueError("an ISO 8601 duration is wanted, such as PT1H or P1D")
    sign, years, months, days, unit, hours, minutes, seconds = match.groups()
    whole = sum(
        int(count or 0) * _SECONDS[length]
        for count, length in ((years, "Y"), (months, "Mo"), (days, unit or "D"), (hours, "H"), (minutes, "M"))
    )
    if whole + float(seconds or 0) > _LONGEST:
        raise ValueError("a duration of less than 10,000 years is wanted")
    # Apart, so that no microsecond is lost to the size of the whole.
    span = timedelta(seconds=whole) + timedelta(seconds=float(seconds or 0))
    return -span if sign else span


def format_duration(span: timedelta | float) -> str:
    """Days, hours, minutes, seconds: forms that Java's Duration.parse takes (it refuses weeks and months)."""
    ticks = span // _TICK if isinstance(span, timedelta) else round(float(span) * 1e6)
    sign, ticks = ("-", -ticks) if ticks < 0 else ("", ticks)
    seconds, fraction = divmod(ticks, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M")) if count)
    if seconds or fraction or not (days or clock):
        clock += f"{seconds}.{fraction:06}".rstrip("0").rstrip(".") + "S"
    return f"{sign}P{f'{days}D' if days else ''}" + (f"T{clock}" if clock else "")


class Interval(NamedTuple):
    """From `start` to `end`, both aware UTC. Written as start/duration, which every reader in the field takes."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{format_instant(self.start)}/{format_duration(self.length)}"

    @classmethod
    def parse(cls, text: object) -> Interval:
        """start/end, start/duration or duration/end. Raises ValueError."""
        if isinstance(text, Interval):
            return text
        left, slash, right = text.partition("/") if isinstance(text, str) and len(text) <= 200 else ("", "", "")
        if not slash:
            raise ValueError("an ISO 8601 interval is wanted, such as 2026-11-22T14:00:00Z/PT2H")
        try:
            if left.startswith("P"):
                end = cls._edge(right)
                return cls(end - parse_duration(left), end)
            start = cls._edge(left)
            end = start + parse_duration(right) if right.startswith("P") else cls._edge(right)
        except OverflowError:
            raise ValueError("an interval within the years 1 to 9999 is wanted") from None
        if end < start:
            raise ValueError("an interval ends after its start")
        return cls(start, end)

    @staticmethod
    def _edge(text: str) -> datetime:
        if not _MOMENT.fullmatch(text):
            raise ValueError(f"{text!r} is no date or date and time")
        return _moment(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        form = {"type": "string", "description": "ISO 8601 interval", "examples": ["2026-11-22T14:00:00Z/PT2H"]}
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
            metadata={"pydantic_js_functions": [lambda *_: form]},
        )


Instant = Annotated[datetime, BeforeValidator(parse_instant), PlainSerializer(format_instant, return_type=str)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]


class Span(msgspec.Struct, frozen=True):
    """A quantity known as a range: `low` ≤ `high`, both finite. Its unit is its field's."""

    low: float
    high: float

    @classmethod
    def of(cls, value: float) -> Span:
        return cls(value, value)

    @property
    def expected(self) -> float:
        """The middle of the range; halves first, so that it cannot overflow."""
        return self.low / 2 + self.high / 2

    @property
    def pessimistic(self) -> float:
        return self.high

    def plus(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Span:
        """`factor` must not be negative."""
        return Span(self.low * factor, self.high * factor)
