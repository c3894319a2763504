"""What a TES server sends, as far as it is read: fields that are absent or null are not known. Imports msgspec.

Source: the schemas tesTask, tesTaskLog, tesExecutorLog, tesOutputFileLog, tesListTasksResponse, tesServiceInfo of the
GA4GH Task Execution Service 1.1.0 (openapi/task_execution_service.openapi.yaml of ga4gh/task-execution-schemas), and
ServiceType of GA4GH Service Info 1.0.0. `size_bytes` is a text there; some servers write a number.
"""

from __future__ import annotations

import msgspec


class ExecutorLog(msgspec.Struct, frozen=True):
    start_time: str | None = None
    end_time: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: int | None = None


class OutputLog(msgspec.Struct, frozen=True):
    url: str | None = None
    path: str | None = None
    size_bytes: str | int | None = None


class TaskLog(msgspec.Struct, frozen=True):
    """One attempt."""

    logs: tuple[ExecutorLog, ...] | None = None
    start_time: str | None = None
    end_time: str | None = None
    outputs: tuple[OutputLog, ...] | None = None
    system_logs: tuple[str, ...] | None = None


class Task(msgspec.Struct, frozen=True):
    id: str
    state: str | None = None
    tags: dict[str, str | None] | None = None
    logs: tuple[TaskLog, ...] | None = None
    creation_time: str | None = None


class Page(msgspec.Struct, frozen=True):
    tasks: tuple[Task, ...] | None = None
    next_page_token: str | None = None


class Created(msgspec.Struct, frozen=True):
    id: str


class ServiceType(msgspec.Struct, frozen=True):
    artifact: str | None = None
    version: str | None = None


class ServiceInfo(msgspec.Struct, frozen=True):
    type: ServiceType | None = None
    storage: tuple[str, ...] | None = None
    tesResources_backend_parameters: tuple[str, ...] | None = None  # noqa: N815  the standard's word
