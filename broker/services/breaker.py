"""A circuit breaker for one operation at one site. Imports the Clock port.

What one replica of a fleet learns of a site, the others need not learn again: `on_turn` hears of each opening and
closing, `told` and `relieved` take in what others say.

closed ──failures──▶ open ──back-off over──▶ half-open (one probe)
   ▲                  ▲                          │
   └───── success ────┼────────── failure ───────┘   each failure of a probe doubles the back-off, up to a cap
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from broker.ports import Clock

LONGEST_PAUSE = 3600.0  # seconds; a site that asks for more is asked again after this
_SAME = 0.5  # seconds by which two replicas' reckonings of one moment may differ


class BreakerSettings(msgspec.Struct, frozen=True):
    """`failures` in a row open it; seconds: the first back-off, the longest one, and how long a call must have waited
    for its timeout to count (a caller in a hurry must not shut a site out)."""

    failures: int = 5
    backoff: float = 1.0
    cap: float = 60.0
    fair: float = 2.0


class BreakerState(msgspec.Struct, frozen=True):
    """How it stands. `since` is epoch seconds, `retry_after` seconds from now (0.0: it may be tried)."""

    operation: str
    state: str  # closed, open or half-open
    since: float
    reason: str = ""
    retry_after: float = 0.0


class Turn(msgspec.Struct, frozen=True):
    """A breaker that has opened, for `left` seconds, the `opened`-th time in a row; 0: the site asked to wait."""

    opened: int
    left: float
    reason: str


class Breaker:
    """Every `enter` is followed by exactly one of `succeeded`, `failed`, `paused`, `abandoned`, which are given back
    what `enter` returned. `on_turn` is called when this very breaker opens, and with None when it closes."""

    def __init__(
        self,
        operation: str,
        clock: Clock,
        settings: BreakerSettings,
        on_turn: Callable[[Turn | None], None] = lambda _: None,
    ) -> None:
        self._operation, self._clock, self._settings, self._on_turn = operation, clock, settings, on_turn
        self._failures = 0
        self._opened = 0  # times it opened since it was last closed
        self._until = 0.0  # monotonic: nothing is sent before
        self._probing = False
        self._since = clock.now()
        self._reason = ""

    @property
    def closed(self) -> bool:
        return self._opened == 0

    def blocked(self) -> float | None:
        """Seconds until a call may be tried; None: now."""
        left = self._until - self._clock.monotonic()
        if left > 0:
            return left
        return self._settings.backoff if self._probing else None

    @property
    def reason(self) -> str:
        return self._reason

    def enter(self) -> bool:
        """A call goes out; only when `blocked` is None. True: it is the probe."""
        self._probing = not self.closed
        return self._probing

    def succeeded(self, probe: bool) -> None:
        """The site answered, whatever it said. A call sent before the breaker opened closes it too."""
        self._ended(probe)
        self._failures = 0
        if not self.closed:
            self._turn(0, "", 0.0)
            self._on_turn(None)

    def failed(self, probe: bool, reason: str) -> None:
        self._ended(probe)
        self._failures += 1
        if (probe and not self.closed) or (self.closed and self._failures >= self._settings.failures):
            backoff = self._settings.backoff * 2.0 ** min(self._opened, 30)
            self._open(Turn(self._opened + 1, min(backoff, self._settings.cap), reason))

    def paused(self, probe: bool, seconds: float, reason: str) -> None:
        """The site answered, and asked to come back after `seconds`."""
        self.succeeded(probe)
        self._open(Turn(0, min(max(0.0, seconds), LONGEST_PAUSE), reason))

    def abandoned(self, probe: bool) -> None:
        """The call ended without telling anything of the site (its caller was cancelled)."""
        self._ended(probe)

    # ── what other replicas say ──────────────────────────────────────────────────────────────────────────────

    def told(self, turn: Turn) -> None:
        """Another replica's breaker has opened. Idempotent; what we know ourselves is not shortened by it."""
        until = self._clock.monotonic() + min(turn.left, LONGEST_PAUSE)
        if turn.opened > self._opened or (turn.opened == self._opened and until > self._until + _SAME):
            self._turn(turn.opened, turn.reason, max(until, self._until))

    def relieved(self) -> None:
        """Another replica had an answer from the site. Idempotent."""
        if not self.closed:
            self._failures = 0
            self._turn(0, "", 0.0)

    # ── for the status ───────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> BreakerState:
        left = self._until - self._clock.monotonic()
        if left > 0:
            return BreakerState(self._operation, "open", self._since, self._reason, left)
        state = "closed" if self.closed else "half-open"
        return BreakerState(self._operation, state, self._since, "" if self.closed else self._reason)

    def _ended(self, probe: bool) -> None:
        if probe:
            self._probing = False

    def _open(self, turn: Turn) -> None:
        self._turn(turn.opened, turn.reason, self._clock.monotonic() + turn.left)
        self._on_turn(turn)

    def _turn(self, opened: int, reason: str, until: float) -> None:
        self._opened, self._reason, self._until, self._since = opened, reason, until, self._clock.now()
