"""What a planner gets from the broker, for people who test adapters over real sockets. Imports the plugins, aiohttp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from broker.domain.site import Registration
from broker.outward import connector
from broker.plugins import Credentials, Plugin, Resources
from broker.ports import Calendar, Clock, Limits, Planner


@asynccontextmanager
async def shared_http() -> AsyncIterator[aiohttp.ClientSession]:
    """The session that all planners share: the broker's own connector, and no cookies."""
    async with aiohttp.ClientSession(connector=connector(), cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield http


def planner(
    plugin: Plugin,
    url: str,
    http: aiohttp.ClientSession,
    clock: Clock,
    *,
    credentials: Credentials | None = None,
    broker_id: str = "us",
    options: Mapping[str, Any] | None = None,
) -> Planner:
    """For kinds that do not plan themselves: there is no calendar and there are no limits."""
    resources = Resources(
        registration=Registration(name="site", url=url),
        calendar=cast(Calendar, None),
        limits=cast(Limits, None),
        clock=clock,
        http=http,
        credentials=credentials,
        name="site",
        broker_id=broker_id,
        currency="EUR",
        site_settings={},
    )
    return plugin.make(plugin.options.model_validate(dict(options or {})), resources)
