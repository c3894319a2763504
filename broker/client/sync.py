"""The client without `await`, for scripts and old notebooks: the same names, the same errors.

    from broker.client.sync import Broker

    with Broker() as broker:
        session = broker.submit("fit.py", data=[url], cores=4, memory=16).best.accept()
        session.finished()
        path = session.results["fluxes.fits"].fetch()

One thread with a loop of its own does the work, so this can be called where a loop runs already. Calls of several
threads wait for each other no longer than they must. Imports the client's parts.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from yarl import URL

from broker.client import batch, broker, files, offers, sessions
from broker.client.sessions import Line, Logs
from broker.domain.request import ExecutionRequest
from broker.domain.session import OutcomeNote

T = TypeVar("T")


class _Loop:
    """Runs coroutines to their end in a thread, which does not keep the program from ending."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. An interrupt (Ctrl-C) ends the work, then the call."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Broker:
    """As `broker.client.Broker`. `with`, or `close`, ends its thread."""

    def __init__(
        self,
        url: str | None = None,
        *,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        patience: float = 30.0,
    ) -> None:
        self._inner = broker.Broker(url, username=username, password=password, token=token, patience=patience)
        self._loop = _Loop()

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Self:
        self._loop.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections and the thread back; what it made can do nothing more."""
        self._loop.run(self._inner.close())
        self._loop.close()

    @property
    def url(self) -> URL:
        return self._inner.url

    def submit(
        self,
        what: str | os.PathLike[str] | ExecutionRequest | Mapping[str, Any],
        *,
        data: Sequence[str] = (),
        cores: int | None = None,
        memory: int | None = None,
        duration: timedelta | str | None = None,
        prefer: str | None = None,
        max_price: float | None = None,
        name: str | None = None,
        arguments: Sequence[str] = (),
        site: str | None = None,
        wait: float | None = None,
        results_to: str | None = None,
        keep: timedelta | str | None = None,
        expect: float | str | None = None,
        inputs: str | os.PathLike[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        network: bool = False,
    ) -> Offers:
        asked = self._inner.submit(
            what, data=data, cores=cores, memory=memory, duration=duration, prefer=prefer, max_price=max_price,
            name=name, arguments=arguments, site=site, wait=wait, results_to=results_to, keep=keep, expect=expect,
            inputs=inputs, parameters=parameters, network=network,
        )  # fmt: skip
        return Offers(self._loop, self._loop.run(asked))

    def submit_each(
        self,
        what: str | os.PathLike[str] | ExecutionRequest | Mapping[str, Any],
        rows: Sequence[Mapping[str, str]],
        *,
        data: Sequence[str] = (),
        cores: int | None = None,
        memory: int | None = None,
        duration: timedelta | str | None = None,
        prefer: str | None = None,
        max_price: float | None = None,
        name: str | None = None,
        arguments: Sequence[str] = (),
        results_to: str | None = None,
        keep: timedelta | str | None = None,
        expect: float | str | None = None,
        inputs: str | os.PathLike[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        network: bool = False,
    ) -> Batch:
        asked = self._inner.submit_each(
            what, rows, data=data, cores=cores, memory=memory, duration=duration, prefer=prefer, max_price=max_price,
            name=name, arguments=arguments, results_to=results_to, keep=keep, expect=expect,
            inputs=inputs, parameters=parameters, network=network,
        )  # fmt: skip
        return Batch(self._loop, self._loop.run(asked))

    def offerset(self, handle: str | UUID) -> Offers:
        return Offers(self._loop, self._loop.run(self._inner.offerset(handle)))

    def request(self, handle: str | UUID) -> dict[str, Any]:
        return self._loop.run(self._inner.request(handle))

    def session(self, handle: str | UUID) -> Session:
        return Session(self._loop, self._loop.run(self._inner.session(handle)))

    def sessions(self, *, all: bool = False, native: str | None = None) -> list[Line]:
        return self._loop.run(self._inner.sessions(all=all, native=native))

    def offersets(self) -> list[Line]:
        return self._loop.run(self._inner.offersets())

    def sites(self) -> list[dict[str, Any]]:
        return self._loop.run(self._inner.sites())

    def site(self, name: str) -> dict[str, Any]:
        return self._loop.run(self._inner.site(name))

    def doubts(self) -> list[dict[str, Any]]:
        return self._loop.run(self._inner.doubts())

    def resolve(self, session: str | UUID, *, taken: bool, because: str) -> Session:
        return Session(self._loop, self._loop.run(self._inner.resolve(session, taken=taken, because=because)))

    def status(self) -> dict[str, Any]:
        return self._loop.run(self._inner.status())


class Session:
    """As `broker.client.Session`; what needs no call (`phase`, `name`, `messages` …) is that one's own."""

    def __init__(self, loop: _Loop, inner: sessions.Session) -> None:
        self._loop, self._inner = loop, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def refresh(self) -> Self:
        return self._done(self._inner.refresh())

    def accept(self) -> Self:
        return self._done(self._inner.accept())

    def reject(self) -> Self:
        return self._done(self._inner.reject())

    def cancel(self) -> Self:
        return self._done(self._inner.cancel())

    def finished(
        self,
        progress: Callable[[sessions.Session], None] | None = None,
        *,
        poll: tuple[float, float] = (sessions.SOONEST, sessions.LATEST),
        patience: float = sessions.PATIENCE,
    ) -> Self:
        """`progress` is called in the client's thread."""
        return self._done(self._inner.finished(progress, poll=poll, patience=patience))

    def logs(self) -> Logs:
        return self._loop.run(self._inner.logs())

    @property
    def results(self) -> Mapping[str, File]:
        return {name: File(self._loop, file) for name, file in self._inner.results.items()}

    def load_results(self) -> Mapping[str, File]:
        self._loop.run(self._inner.load_results())
        return self.results

    def _done(self, work: Coroutine[Any, Any, object]) -> Self:
        self._loop.run(work)
        return self


class Offers:
    """As `broker.client.Offers`."""

    def __init__(self, loop: _Loop, inner: offers.Offers) -> None:
        self._loop, self._inner = loop, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def _repr_html_(self) -> str:
        return self._inner._repr_html_()

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Session]:
        return (Session(self._loop, offer) for offer in self._inner)

    def __getitem__(self, rank: int) -> Session:
        return Session(self._loop, self._inner[rank])

    @property
    def best(self) -> Session:
        return Session(self._loop, self._inner.best)

    @property
    def yes(self) -> bool:
        return self._inner.yes

    @property
    def outcomes(self) -> tuple[OutcomeNote, ...]:
        return self._inner.outcomes

    @property
    def pending(self) -> int:
        return self._inner.pending

    @property
    def uuid(self) -> UUID:
        return self._inner.uuid

    def refresh(self) -> Self:
        self._loop.run(self._inner.refresh())
        return self

    def complete(self, *, limit: float = 60.0, enough: bool = False) -> Self:
        self._loop.run(self._inner.complete(limit=limit, enough=enough))
        return self


class File:
    """As `broker.client.File`."""

    def __init__(self, loop: _Loop, inner: files.File) -> None:
        self._loop, self._inner = loop, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fetch(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        return self._loop.run(self._inner.fetch(path, overwrite=overwrite))


class Batch:
    """As `broker.client.Batch`; its members are that one's own."""

    def __init__(self, loop: _Loop, inner: batch.Batch) -> None:
        self._loop, self._inner = loop, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[batch.Member]:
        return iter(self._inner)

    @property
    def failed(self) -> list[batch.Member]:
        return self._inner.failed

    def guard(self, ceiling: float | None = None) -> None:
        self._inner.guard(ceiling)

    def accept(self) -> Self:
        return self._done(self._inner.accept())

    def again(self) -> Self:
        return self._done(self._inner.again())

    def refresh(self) -> Self:
        return self._done(self._inner.refresh())

    def finished(self) -> Self:
        return self._done(self._inner.finished())

    def _done(self, work: Coroutine[Any, Any, object]) -> Self:
        self._loop.run(work)
        return self
