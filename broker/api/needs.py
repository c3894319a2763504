"""What the handlers need of the services, no more: their tests bring small stand-ins. Imports ports, the domain,
and from the services the words in which they are told what is wanted.

What each method promises stands at the service that keeps it (broker/services/). All raise errors of broker/errors.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from broker.domain.identity import Caller, Hop
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile, Registration
from broker.domain.updates import AbstractUpdate
from broker.ports import Listing, Logs, Result
from broker.services.doubts import Doubt
from broker.services.keys import Once
from broker.services.offers import How

T = TypeVar("T")


class State(Protocol):
    """An offer set or a session as it stands; what else it holds is between its service and what draws it."""

    @property
    def uuid(self) -> UUID: ...


class SessionState(State, Protocol):
    @property
    def refused(self) -> bool: ...


class Draw(Protocol):
    """A state as the JSON that this caller sees; `base` begins every URL in it."""

    def __call__(self, state: Any, base: str, caller: Caller) -> bytes: ...


class Offers(Protocol):
    async def ask(self, request: ExecutionRequest, caller: Caller, hop: Hop, how: How) -> State: ...

    async def get(self, uuid: UUID, caller: Caller) -> State: ...

    async def request(self, uuid: UUID, caller: Caller) -> bytes: ...

    async def list(
        self,
        caller: Caller,
        *,
        after: tuple[float, str] | None,
        limit: int,
        everyone: bool,
        name: str | None,
        since: float | None,
    ) -> list[Listing]: ...


class Keys(Protocol):
    async def once(
        self, once: Once, act: Callable[[UUID], Awaitable[T]], show: Callable[[UUID], Awaitable[T]]
    ) -> T: ...


class Acceptance(Protocol):
    async def update(self, uuid: UUID, update: AbstractUpdate, caller: Caller) -> SessionState: ...

    async def direct(self, request: ExecutionRequest, caller: Caller, hop: Hop, how: How) -> SessionState: ...

    async def directed(self, set_: UUID, caller: Caller) -> SessionState: ...

    async def release(self, uuids: Sequence[UUID], caller: Caller) -> None: ...


class Doubts(Protocol):
    async def list(self, caller: Caller) -> Sequence[Doubt]: ...

    async def decide(self, uuid: UUID, taken: bool, because: str, caller: Caller) -> SessionState: ...


class Sessions(Protocol):
    async def get(self, uuid: UUID, caller: Caller) -> SessionState: ...

    async def many(self, uuids: Sequence[UUID], caller: Caller) -> tuple[Sequence[SessionState], list[UUID]]: ...

    async def of_account(
        self, caller: Caller, *, after: tuple[float, str] | None, limit: int, phases: tuple[str, ...]
    ) -> list[Listing]: ...

    async def list(
        self,
        caller: Caller,
        *,
        after: tuple[float, str] | None,
        limit: int,
        phases: tuple[str, ...],
        everyone: bool,
        site: str | None,
        name: str | None,
        since: float | None,
    ) -> list[Listing]:
        """No `phases`: all of them."""

    async def logs(self, uuid: UUID, caller: Caller) -> Logs: ...

    async def results(self, uuid: UUID, caller: Caller) -> tuple[Result, ...]: ...

    async def fetch(self, uuid: UUID, name: str, caller: Caller) -> AsyncIterator[bytes]: ...


class Change(Protocol):
    @property
    def cursor(self) -> int: ...

    @property
    def state(self) -> State: ...


class Events(Protocol):
    async def follow_set(
        self, uuid: UUID, caller: Caller, after: int | None
    ) -> AsyncGenerator[Change | None, None] | None: ...

    async def follow_session(
        self, uuid: UUID, caller: Caller, after: int | None
    ) -> AsyncGenerator[Change | None, None] | None: ...

    def close(self) -> None: ...


class Sites(Protocol):
    def get(self, name: str) -> dict[str, Any]: ...

    def profile(self) -> Profile: ...

    async def put(self, name: str, site: Registration, caller: Caller) -> dict[str, Any]: ...

    async def delete(self, name: str, caller: Caller) -> None: ...

    async def drain(self, name: str, until: datetime | None, caller: Caller) -> dict[str, Any]: ...

    async def resume(self, name: str, caller: Caller) -> dict[str, Any]: ...

    async def forget(self, name: str, caller: Caller) -> dict[str, Any]: ...

    def list(self) -> list[dict[str, Any]]: ...


class Identity(Protocol):
    @property
    def uuid(self) -> UUID: ...

    @property
    def username(self) -> str: ...

    @property
    def made(self) -> bool: ...


class Identities(Protocol):
    async def make(self, name: str, password: str, caller: Caller) -> Identity: ...


class Status(Protocol):
    async def snapshot(self, caller: Caller) -> dict[str, Any]: ...

    async def metrics(self) -> bytes: ...
