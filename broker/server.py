"""The running broker: one process that listens, works off timers, and stops cleanly. Imports wiring and settings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys

import structlog
import uvloop
from aiohttp import web

from broker.api.routes import build_app
from broker.errors import SettingsError
from broker.settings import Settings
from broker.wiring import configure_logging, open_services

_log = structlog.get_logger(__name__)

STOP_WITHIN = 10.0  # seconds for answers under way when we are told to stop


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; a second one cuts the drain short. Returns the exit code. Raises SettingsError for
    what only a start can find, such as a port that is taken."""
    configure_logging(settings)
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    async with open_services(settings) as parts:
        runner = web.AppRunner(build_app(parts), access_log=None, auto_decompress=False, shutdown_timeout=STOP_WITHIN)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
            await _listen(site, settings)
            _announce(settings, runner)
            await stop.wait()
            _log.info("stopping", drain=settings.stop.drain)
            parts.stopping.begin()
            await _drained(settings.stop.drain, hurry)
        finally:
            await runner.cleanup()
    return 0


async def _drained(seconds: float, hurry: asyncio.Event) -> None:
    """Returns when callers have had the time to learn that we are not ready any more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await hurry.wait()


async def _listen(site: web.TCPSite, settings: Settings) -> None:
    try:
        await site.start()
    except OSError as error:
        raise SettingsError(f"{settings.listen} cannot be listened on: {error.strerror}", key="listen") from error


def _announce(settings: Settings, runner: web.AppRunner) -> None:
    # Long-lived objects are made by now; the collector need not look at them at each request (measured: 20 % CPU).
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    host, port = runner.addresses[0][:2]
    _log.info("listening", name=settings.name, url=f"http://{host}:{port}")
    sys.stdout.write(f"{settings.name} listens on http://{host}:{port}\n")
    sys.stdout.flush()
