"""How bad it is: the rates of faults in one history, drawn from its seed. Imports the standard library only.

Some histories are calm but for one thing, some have everything at once; `calm` ends all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass
class Weather:
    """Each rate is the share of calls. `network`: a call to a site goes wrong on its way; `sites`: a site answers
    wrongly; `store`: a call to the store does; `deaths`: a replica dies at a call of its own; `hangs_up`: a user's
    call is cancelled. `slow`: a call takes seconds instead of milliseconds."""

    random: Random
    network: float
    sites: float
    store: float
    deaths: float
    hangs_up: float
    slow: float
    calm: bool = False

    @classmethod
    def of(cls, random: Random) -> Weather:
        return cls(
            random,
            network=random.choice((0.0, 0.02, 0.1, 0.3)),
            sites=random.choice((0.0, 0.05, 0.2)),
            store=random.choice((0.0, 0.0, 0.01, 0.05, 0.2)),
            deaths=random.choice((0.0, 0.0, 0.003, 0.01, 0.03)),
            hangs_up=random.choice((0.0, 0.1, 0.3)),
            slow=random.choice((0.0, 0.02, 0.1)),
        )

    def strikes(self, rate: float) -> bool:
        return not self.calm and rate > 0 and self.random.random() < rate

    def way(self, *, safe: bool = False) -> float:
        """Seconds from a replica to a site, or back. `safe`: never slow."""
        if not safe and self.strikes(self.slow):
            return self.random.uniform(0.5, 8.0)
        return self.random.uniform(0.001, 0.1)

    def disk(self) -> float:
        """Seconds from a replica to the store's file, or back."""
        if self.strikes(self.slow):
            return self.random.uniform(0.1, 3.0)
        return self.random.uniform(0.0001, 0.004)
