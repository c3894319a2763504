"""How the pretended platform behaves. Imports pydantic and the domain's base."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.domain.base import Number
from broker.domain.quantities import Duration

Call = Literal["describe", "quote", "start", "status", "cancel", "logs", "results"]
Trouble = Literal["refuse", "busy", "unreachable", "garbage", "hang", "lost"]
Length = Annotated[Duration, Field(ge=timedelta(0))]
Probability = Annotated[Number, Field(ge=0, le=1)]


class Fault(BaseModel):
    """What goes wrong in which call. refuse, busy, unreachable, garbage: answered so, nothing done. hang: no answer
    by the deadline, nothing done. lost: done, but the answer never comes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: Call = Field(description="in which call")
    trouble: Trouble = Field(description="what goes wrong")
    probability: Probability = Field(1.0, description="how often")


class SimulatedOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Annotated[Duration, Field(gt=timedelta(0))] | None = Field(
        None, description="how long each run takes; absent: `share`, or PT10S where that is absent too"
    )
    share: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        None, description="the length of a run as a share of the duration asked for; above 1 it meets its time limit"
    )
    preparing: Length | None = Field(None, description="PREPARING before each run, stated in offers; absent: unstated")
    bandwidth: Annotated[Number, Field(gt=0)] | None = Field(
        None,
        description="MB (10^6 bytes) a second at which data of stated sizes is pretended to be brought in, one after "
        "another while PREPARING, and reported as transfers; absent: it takes no time",
    )
    releasing: Length = Field(timedelta(0), description="RELEASING after each run")
    queue: Length | None = Field(
        None, description="the wait in a queue of its own, so that offers are estimates; absent: the calendar decides"
    )
    fail: Probability = Field(0.0, description="share of the runs that end FAILED")
    seed: Annotated[int, Field(strict=True)] = Field(0, description="of everything that is decided by chance")
    delay: dict[Call, Length] = Field(default_factory=dict, description="call → time until it is answered")
    faults: tuple[Fault, ...] = Field((), description="what goes wrong, for rehearsals")
    forget_after: Length | None = Field(None, description="after its start a session is forgotten this soon")
    keep: Length = Field(timedelta(days=7), description="how long ended runs are remembered")

    @model_validator(mode="after")
    def _one(self) -> SimulatedOptions:
        if self.run and self.share:
            raise ValueError("run and share are two ways to say the same; give one")
        return self

    def seconds(self, asked: float) -> float:
        """How long a run takes that may take `asked` seconds."""
        if self.run:
            return self.run.total_seconds()
        return asked * self.share if self.share else 10.0
