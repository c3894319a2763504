"""Minima and maxima, with and without units. Imports the domain's base.

Source: MinMax* and ComputeUnitsEnum in execution-broker-1.0.openapi.json, which its own messages use in part only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from broker.domain.base import Model, Natural, Number, Text

Int32 = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)]
ComputeUnits = Literal[
    "kB", "kiB", "MB", "MiB", "GB", "GiB", "TB", "TiB", "PB", "PiB", "EB", "EiB", "ZB", "ZiB", "YB", "YiB"
]  # fmt: skip


class MinMaxLong(Model):
    """What is counted here is never negative."""

    min: Natural | None = None
    max: Natural | None = None


class MinMaxLongUnits(MinMaxLong):
    units: Text | None = None


class MinMaxComputeLong(MinMaxLong):
    units: ComputeUnits | None = None


class MinMaxInteger(Model):
    min: Int32 | None = None
    max: Int32 | None = None


class MinMaxIntegerUnits(MinMaxInteger):
    units: Text | None = None


class MinMaxComputeInteger(MinMaxInteger):
    units: ComputeUnits | None = None


class MinMaxFloat(Model):
    min: Number | None = None
    max: Number | None = None


class MinMaxFloatUnits(MinMaxFloat):
    units: Text | None = None


class MinMaxString(Model):
    min: Text | None = None
    max: Text | None = None


class MinMaxStringUnits(MinMaxFloat):
    """By the standard's description its bounds are numbers, whatever its name says."""

    units: Text | None = None
