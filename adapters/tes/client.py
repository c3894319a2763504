"""The calls of GA4GH TES 1.1 for one account at one server. Imports the HTTP of adapters/common, the wire's structs.

Source: the paths of openapi/task_execution_service.openapi.yaml of ga4gh/task-execution-schemas, version 1.1.0. Reading
is repeated where that may help; what makes a task is sent once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, TypeVar

import msgspec
from yarl import URL

from adapters.common.http import Answer, Origin, failure
from adapters.common.retry import repeat
from adapters.common.signing import Signer
from adapters.tes.states import OVER
from adapters.tes.wire import Created, Page, ServiceInfo, Task
from broker.domain.deadline import Deadline
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteRefused
from broker.ports import Clock

T = TypeVar("T")
View = Literal["MINIMAL", "BASIC", "FULL"]
Tags = Sequence[tuple[str, str]]

_PAGE = {"MINIMAL": 1000, "BASIC": 100, "FULL": 10}  # tasks, which may be large; the standard allows less than 2048
_MOST_PAGES = 1000
_LONGEST_ID, _LONGEST_TOKEN = 512, 8192


class Client:
    def __init__(self, origin: Origin, signer: Signer | None, clock: Clock) -> None:
        """`signer`: goes before the origin's own credentials."""
        self._origin, self._signer, self._clock = origin, signer, clock

    async def info(self, deadline: Deadline) -> ServiceInfo:
        return self._read(await self._get(self._origin.at("service-info"), deadline), ServiceInfo)

    async def create(self, body: bytes, deadline: Deadline) -> str:
        """The id of the task that is made of it. Sent once; errors without proof leave open whether there is one."""
        answer = await self._send("POST", self._origin.at("tasks"), deadline, body)
        if answer.status != 200:
            raise failure(answer, self._origin.place, self._clock.now(), doubtful=True)
        return self._named(self._read(answer, Created).id)

    async def task(self, id: str, view: View, deadline: Deadline) -> Task:
        """Raises SiteForgot where the server has none of that id."""
        try:
            answer = await self._get(self._origin.at("tasks", id).with_query(view=view), deadline)
        except SiteRefused as error:
            if error.status == 404:
                raise SiteForgot(f"{self._origin.place} has no such task.") from None
            raise
        return self._own(self._read(answer, Task))

    async def tasks(
        self, tags: Tags, view: View, deadline: Deadline, *, state: str = "", pages: int = _MOST_PAGES
    ) -> AsyncGenerator[Task, None]:
        """All that have all the tags, page after page; their order is the server's own. No more than `pages` are read.
        A server may be older than the filters and return more. Raises SiteMisbehaved for a list without an end."""
        query = [("view", view), ("page_size", str(_PAGE[view]))]
        query += [pair for key, value in tags for pair in (("tag_key", key), ("tag_value", value))]
        query += [("state", state)] if state else []
        seen: set[str] = set()
        token = ""
        for _ in range(pages):
            more = [("page_token", token)] if token else []
            page = self._read(await self._get(self._origin.at("tasks").with_query([*query, *more]), deadline), Page)
            for task in page.tasks or ():
                yield self._own(task)
            token = page.next_page_token or ""
            if not token:
                return
            if token in seen or len(token) > _LONGEST_TOKEN:
                raise SiteMisbehaved(f"{self._origin.place} has a list of tasks that goes in a circle.")
            seen.add(token)
        if pages == _MOST_PAGES:
            raise SiteMisbehaved(f"{self._origin.place} has a list of tasks of more than {_MOST_PAGES} pages.")

    async def cancel(self, id: str, deadline: Deadline) -> None:
        """Idempotent; nothing, where it ends already, or is gone: servers differ in what they answer then."""
        answer = await self._send("POST", self._origin.at("tasks", f"{id}:cancel"), deadline)
        if answer.status in (200, 404):
            return
        error = failure(answer, self._origin.place, self._clock.now())
        if answer.status in (401, 403, 429) or not await self._is_ending(id, deadline):
            raise error

    async def _is_ending(self, id: str, deadline: Deadline) -> bool:
        try:
            return (await self.task(id, "MINIMAL", deadline)).state in (*OVER, "CANCELING")
        except SiteForgot:
            return True
        except SiteError:
            return False

    async def _get(self, url: URL, deadline: Deadline) -> Answer:
        async def get() -> Answer:
            return await self._send("GET", url, deadline)

        answer = await repeat(get, clock=self._clock, deadline=deadline)
        if answer.status != 200:
            raise failure(answer, self._origin.place, self._clock.now())
        return answer

    async def _send(self, method: str, url: URL, deadline: Deadline, body: bytes | None = None) -> Answer:
        if self._signer is None:
            return await self._origin.send(method, url, deadline=deadline, body=body)
        header = await self._signer.header(deadline)
        answer = await self._origin.send(method, url, deadline=deadline, body=body, headers={"Authorization": header})
        if answer.status == 401:
            self._signer.rejected(header)
        return answer

    def _read(self, answer: Answer, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise SiteMisbehaved(f"{self._origin.place} answered with what is none of TES 1.1.") from None

    def _own(self, task: Task) -> Task:
        self._named(task.id)
        return task

    def _named(self, id: str) -> str:
        if not 0 < len(id) <= _LONGEST_ID or not id.isprintable():
            raise SiteMisbehaved(f"{self._origin.place} gave a task a name that is none.")
        return id

    async def close(self) -> None:
        if self._signer is not None:
            await self._signer.close()
