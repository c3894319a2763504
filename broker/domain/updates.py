"""What a client may send to change a session. Imports the domain's base.

Source: AbstractUpdate and members in execution-broker-1.0.openapi.json. Of the four kinds, version 1.0 services
act on enum-value updates of the phase alone (protocol.md 1.3).
"""

from __future__ import annotations

from broker.domain import kinds
from broker.domain.base import Family, Int, Text


class AbstractUpdate(Family, family=True):
    path: Text


class StringValueUpdate(AbstractUpdate, kind=kinds.STRING_UPDATE):
    value: Text


class EnumValueUpdate(AbstractUpdate, kind=kinds.ENUM_UPDATE):
    value: Text


class IntegerValueUpdate(AbstractUpdate, kind=kinds.INTEGER_UPDATE):
    value: Int
    units: Text | None = None


class IntegerDeltaUpdate(AbstractUpdate, kind=kinds.DELTA_UPDATE):
    delta: Int
    units: Text | None = None
