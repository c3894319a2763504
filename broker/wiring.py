"""The one place where everything is built and joined. Imports all below the server; nothing below imports this.

`open_services` opens resources first, then builds the services from them; each part pushes its own clean-up, and what
was opened last is closed first. Tests may hand in a clock or a plugin table of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aiohttp
import structlog
from pydantic import ValidationError
from yarl import URL

from broker import plugins
from broker.api import answers
from broker.api.openapi import describe
from broker.api.routes import Parts
from broker.api.wire import JSON, YAML, Limits
from broker.domain.identity import Caller, Owner
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.site import Registration
from broker.domain.storages import Map
from broker.domain.wishes import Defaults, StandIns
from broker.errors import SettingsError, Unavailable
from broker.outward import connector
from broker.oversights import oversights
from broker.plugins import CataloguePlugin, CatalogueResources, Credentials, Plugin, Resources, settings_fault
from broker.ports import Backend, Clock, Store
from broker.services.acceptance import Acceptance
from broker.services.access import Access, User, hasher_of
from broker.services.clock import StoreClock, SystemClock
from broker.services.doctor import Doctor
from broker.services.doubts import Doubts
from broker.services.events import Events
from broker.services.fanout import Fanout
from broker.services.figures import TIMER as SILENT
from broker.services.figures import Peers
from broker.services.fleet import Fleet
from broker.services.forwarding import Forwarding
from broker.services.guard import GuardedPlanner
from broker.services.hub import Hub
from broker.services.identities import Identities
from broker.services.keeping import TIMER as KEEP
from broker.services.keeping import Keeping
from broker.services.keys import TIMER as FORGET
from broker.services.keys import Keys
from broker.services.learning import FADE, Learning
from broker.services.locating import Bounds, Known, Locating
from broker.services.offers import Offers, Timing
from broker.services.records import Records
from broker.services.releasing import Releasing
from broker.services.requoting import Requoting
from broker.services.routing import Routing
from broker.services.sessions import Sessions
from broker.services.sites import Sites
from broker.services.status import Status
from broker.services.stopping import Stopping
from broker.services.taken import Taken
from broker.services.upkeep import Upkeep
from broker.services.watching import Watching
from broker.services.window import Window
from broker.settings import CatalogueSettings, CredentialSettings, Settings
from broker.store.opening import is_address, open_store, shown, weaknesses

_log = structlog.get_logger(__name__)

BEGUN_ANEW = 5.0  # seconds after which a loop that failed is begun anew
Loop = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_services(
    settings: Settings, *, clock: Clock | None = None, kinds: Mapping[str, Plugin] | None = None
) -> AsyncIterator[Parts]:
    """The services of a broker, running: sites are probed, timers worked off. All is closed on leaving.

    Raises SettingsError for settings that only now prove wrong, Unavailable when the store cannot be opened."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        store = await open_store(settings.store, clock, settings.store_password_file)
        stack.push_async_callback(store.close)
        if store.shared:
            clock = await _clock_of(store, clock, stack)
        fleet = await _fleet(settings, store, clock, stack) if store.shared else None
        broker_id = await _identify(store)
        http = await stack.enter_async_context(_http())
        kinds = kinds if kinds is not None else plugins.load()
        builder = Builder(settings, store, clock, http, broker_id, kinds, fleet)
        yield await _join(settings, store, clock, builder, broker_id, fleet, stack)


async def _clock_of(store: Backend, local: Clock, stack: AsyncExitStack) -> Clock:
    """The one clock of all replicas. Raises Unavailable when the store does not say the time."""
    clock = StoreClock(local, store.now)
    await clock.measure()
    _run(stack, clock.run)
    return clock


async def _fleet(settings: Settings, store: Backend, clock: Clock, stack: AsyncExitStack) -> Fleet:
    """This replica, which has heard already what the others say."""
    fleet = Fleet(store.limits, clock)
    stack.push_async_callback(fleet.close)
    with contextlib.suppress(Unavailable):  # it goes on trying
        await fleet.beat()
    _run(stack, fleet.run)
    if settings.platform is not None:
        _log.warning("brokers on one store do not share a machine: see that each reaches this same platform")
    return fleet


async def _join(
    settings: Settings, store: Backend, clock: Clock, builder: Builder, broker_id: str, fleet: Fleet | None,
    stack: AsyncExitStack,
) -> Parts:  # fmt: skip
    upkeep = Upkeep(store, clock)
    hub = Hub()
    records = Records(store, clock, upkeep.nudge, hub)
    window = Window(clock.now)
    map_ = _map(settings)
    learning = Learning(store=store, records=records, clock=clock, map_=map_)
    sites = Sites(
        _registrations(settings), store=store, clock=clock, build=builder.build, broker_id=broker_id, memory=learning
    )
    stack.push_async_callback(sites.close)
    fanout = Fanout(clock, grace=settings.fanout.grace)
    stack.push_async_callback(fanout.close)
    users = _users(settings)
    identities = Identities(store, clock, configured=set(users), namespace=UUID(broker_id), hasher=hasher_of(users))
    access = Access(
        users, settings.name, clock=clock, anonymous=_anonymous(settings), find=identities.find,
        limits=store.limits if store.shared else None,
    )  # fmt: skip
    stack.push_async_callback(access.close)
    readers = settings.access.readers
    locating = Locating(builder.catalogues(map_), clock, _bounds(settings))
    stack.push_async_callback(locating.close)
    taken = Taken(clock, fleet)
    stack.push_async_callback(taken.close)
    routing = Routing(map_, taken, clock, at_once=settings.fanout.at_once)
    offers = Offers(
        records=records, sites=sites, fanout=fanout, locating=locating, routing=routing, window=window, store=store,
        limits=store.limits, clock=clock, readers=readers, map_=map_, defaults=_defaults(settings),
        experience=lambda: learning.experience, timing=_timing(settings), broker_id=broker_id,
    )  # fmt: skip
    stack.push_async_callback(offers.close)
    sessions = Sessions(records=records, offers=offers, sites=sites, store=store, clock=clock, readers=readers)
    requoting = Requoting(
        records=records, sites=sites, clock=clock, map_=map_, deadline=settings.fanout.deadline,
        margin=settings.fanout.margin, broker_id=broker_id, experience=lambda: learning.experience,
    )  # fmt: skip
    forwarding = Forwarding(
        records=records, offers=offers, sites=sites, window=window, taken=taken, clock=clock,
        forward=settings.acceptance.forward, patience=settings.acceptance.patience,
    )  # fmt: skip
    stack.push_async_callback(forwarding.close)
    acceptance = Acceptance(
        records=records, offers=offers, forwarding=forwarding, requoting=requoting, sessions=sessions, sites=sites,
        taken=taken, clock=clock, readers=readers, guarded=settings.acceptance.direct == "guarded",
    )  # fmt: skip
    doubts = Doubts(
        records=records, store=store, acceptance=acceptance, forwarding=forwarding, offers=offers, sessions=sessions,
        clock=clock,
    )  # fmt: skip
    keys = Keys(store, clock)
    events = Events(records=records, offers=offers, sessions=sessions, hub=hub, clock=clock)
    releasing = Releasing(records=records, sites=sites, clock=clock)
    watching = Watching(store=store, records=records, sites=sites, window=window, clock=clock)
    keeping = Keeping(
        store=store, records=records, clock=clock,
        offers=settings.limits.keep_offers, records_for=settings.limits.keep_records,
    )  # fmt: skip
    peers = Peers(fleet=fleet, store=store, window=window, clock=clock) if fleet is not None else None
    upkeep.handle(
        {
            "claim": acceptance.resolve,
            "owed": acceptance.go_on,
            "close": releasing.close,
            "expire": releasing.expire,
            "release": releasing.release,
            "follow": watching.follow,
            "look": watching.look,
            "learn": learning.learn,
            FADE: learning.fade,
            FORGET: keys.forget,
            KEEP: keeping.keep,
            **({SILENT: peers.forget} if peers is not None else {}),
        }
    )
    await keeping.start()
    await sites.start()
    with suppress(Unavailable):  # its loop tries again; until then nothing is known of sites
        await learning.refresh()  # before anybody asks: the first offers are ranked by what was learned too
    for loop in (upkeep.run, sites.run, learning.run, partial(store.follow, hub.watched, hub.ring)):
        _run(stack, loop)
    if peers is not None:
        for loop in (sites.follow, peers.run):
            _run(stack, loop)
        stack.push_async_callback(peers.close)
    stack.push_async_callback(upkeep.close)
    release = version("federated-execution-broker")
    status = Status(name=settings.name, sites=sites, store=store, window=window, clock=clock, peers=peers)
    return Parts(
        offers=offers, acceptance=acceptance, doubts=doubts, sessions=sessions, sites=sites, status=status,
        access=access, identities=identities, keys=keys, events=events, ready=store.ping,
        draw_offerset=answers.offerset, draw_session=answers.session,
        openapi=describe(release), broker_id=broker_id, version=release, public_url=settings.public_url,
        readers=readers,
        limits=Limits(settings.limits.json_bytes, settings.limits.yaml_bytes, settings.limits.xml_bytes),
        default=YAML if settings.default_format == "yaml" else JSON,
        stopping=Stopping(upkeep.stop),
    )  # fmt: skip


class Builder:
    """Makes the guarded planner of a registration."""

    def __init__(
        self,
        settings: Settings,
        store: Backend,
        clock: Clock,
        http: aiohttp.ClientSession,
        broker_id: str,
        kinds: Mapping[str, Plugin],
        fleet: Fleet | None = None,
    ) -> None:
        self._settings, self._store, self._clock, self._http = settings, store, clock, http
        self._id, self._kinds, self._fleet = broker_id, kinds, fleet

    def build(self, site: Registration) -> GuardedPlanner:
        """No I/O. Raises SettingsError naming the key: of the settings file where the site stands in it, else of the
        registration."""
        try:
            return self._build(site)
        except SettingsError as error:
            raise SettingsError(error.detail, key=self._where(site, error.key), remedy=error.remedy) from None

    def _where(self, site: Registration, key: str) -> str:
        if site.name in self._settings.sites:
            return f"sites.{site.name}.{key}".rstrip(".")
        if self._settings.platform is not None and site.name == self._settings.name:
            return f"platform.{key.removeprefix('options.')}" if key.startswith(("options.", "kind", "url")) else key
        return key

    def _build(self, site: Registration) -> GuardedPlanner:
        plugin, options = checked(site, self._kinds)
        resources = Resources(
            registration=site,
            calendar=self._store.calendar,
            limits=self._store.limits,
            clock=self._clock,
            http=self._http,
            credentials=_credentials(self._settings, site),
            name=self._settings.name,
            broker_id=self._id,
            currency=self._settings.currencies.base,
            site_settings=self._settings.site_settings if plugin.plans else {},
        )
        return GuardedPlanner(plugin.make(options, resources), site, self._clock, fleet=self._fleet)

    def catalogues(self, map_: Map) -> list[Known]:
        """No I/O. Raises SettingsError naming the key. Where none of the kind `http` is configured, one is there all
        the same: it asks the storages that the operator has declared, and nobody else."""
        kinds = plugins.load_catalogues()
        given = dict(self._settings.catalogues)
        if "http" in kinds and not any(item.kind == "http" for item in given.values()):
            given.setdefault("http", CatalogueSettings(kind="http"))
        return [self._catalogue(name, item, kinds, map_) for name, item in given.items()]

    def _catalogue(self, name: str, given: CatalogueSettings, kinds: Mapping[str, CataloguePlugin], map_: Map) -> Known:
        if given.kind not in kinds:
            known = ", ".join(sorted(kinds))
            raise SettingsError(
                f'no adapter is called "{given.kind}".', key=f"catalogues.{name}.kind", remedy=f"There are: {known}."
            )
        plugin = kinds[given.kind]
        try:
            options = plugin.options.model_validate(given.options)
        except ValidationError as error:
            raise settings_fault(error, plugin.options, prefix=f"catalogues.{name}.options") from None
        resources = CatalogueResources(
            name=name,
            url=given.url,
            clock=self._clock,
            http=self._http,
            credentials=_signing(given.credentials, self._settings.credentials[given.credentials])
            if given.credentials
            else None,
            declared=lambda url: map_.storage_of(url) is not None,
        )
        try:
            catalogue = plugin.make(options, resources)
        except SettingsError as error:
            raise SettingsError(error.detail, key=f"catalogues.{name}.{error.key}", remedy=error.remedy) from None
        return Known(
            name, catalogue, plugin.trust, plugin.places, plugin.sizes, given.timeout, given.concurrency, given.keep
        )


def checked(site: Registration, kinds: Mapping[str, Plugin]) -> tuple[Plugin, object]:
    """The plugin of a site's kind, and its options validated. Raises SettingsError."""
    if site.kind not in kinds:
        known = ", ".join(sorted(kinds))
        raise SettingsError(f'no adapter is called "{site.kind}".', key="kind", remedy=f"There are: {known}.")
    if site.url is not None and (urlsplit(site.url).scheme not in ("http", "https") or not urlsplit(site.url).netloc):
        raise SettingsError(f'"{site.url}" is no http or https address.', key="url")
    try:
        return kinds[site.kind], kinds[site.kind].options.model_validate(site.options)
    except ValidationError as error:
        raise settings_fault(error, kinds[site.kind].options, prefix="options") from None


@asynccontextmanager
async def built(settings: Settings) -> AsyncIterator[list[tuple[Registration, GuardedPlanner]]]:
    """Every planner that the settings name, on a throw-away store, closed on leaving: what is asked of them books
    nothing. Raises SettingsError for the first that cannot be built, and for the first such catalogue."""
    async with AsyncExitStack() as stack:
        builder = await _trial(settings, stack)
        found: list[tuple[Registration, GuardedPlanner]] = []
        for site in _registrations(settings):
            found.append((site, builder.build(site)))
            stack.push_async_callback(found[-1][1].close)
        for known in builder.catalogues(_map(settings)):
            stack.push_async_callback(known.catalogue.close)
        yield found


@asynccontextmanager
async def built_catalogues(settings: Settings) -> AsyncIterator[list[Known]]:
    """Every replica catalogue that the settings name, closed on leaving. Raises SettingsError."""
    async with AsyncExitStack() as stack:
        found = (await _trial(settings, stack)).catalogues(_map(settings))
        for known in found:
            stack.push_async_callback(known.catalogue.close)
        yield found


async def _trial(settings: Settings, stack: AsyncExitStack) -> Builder:
    """On a throw-away store: planners want one, and the real one may be another process's at the moment."""
    clock = SystemClock()
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    store = await open_store(f"{scratch}/check.db", clock)
    stack.push_async_callback(store.close)
    http = await stack.enter_async_context(_http())
    return Builder(settings, store, clock, http, "check", plugins.load())


@asynccontextmanager
async def open_doctor(settings: Settings, *, mend: bool = False, cancel: bool = False) -> AsyncIterator[Doctor]:
    """A doctor for the store and the sites that the settings name, beside whatever brokers run on it. Raises
    SettingsError, also where there is no store yet; Unavailable when it cannot be opened."""
    if _absent(settings.store):
        raise _no_store()
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        store = await open_store(settings.store, clock, settings.store_password_file)
        stack.push_async_callback(store.close)
        # With a wrong prefix or file all that the sites have would pass for orphans.
        if not (await store.keys(limit=1))[0]:
            raise _no_store()
        broker_id = await _identify(store)
        http = await stack.enter_async_context(_http())
        builder = Builder(settings, store, clock, http, broker_id, plugins.load())
        sites = Sites(_registrations(settings), store=store, clock=clock, build=builder.build, broker_id=broker_id)
        stack.push_async_callback(sites.close)
        await sites.start()
        yield Doctor(store=store, sites=sites, clock=clock, mend=mend, cancel=cancel)


def _absent(store: str) -> bool:
    return not is_address(store) and not Path(store).exists()


def _no_store() -> SettingsError:
    return SettingsError(
        "no broker has kept anything there yet.",
        key="store",
        remedy="Name the store that your broker runs on; of a Redis, its database and prefix too.",
    )


async def check(settings: Settings) -> list[str]:
    """What a start would find wrong, without starting: builds every planner. Returns a line for each thing that is
    well. Raises SettingsError for the first that is not."""
    lines = [f"ok    {settings.name} would listen on {settings.listen}, store {shown(settings.store)}"]
    async with built(settings) as planners:
        for site, _ in planners:
            where = f"sites.{site.name}" if site.name in settings.sites else "platform"
            lines.append(f"ok    {where}: {site.kind}" + (f" at {site.url}" if site.url else ""))
    for name, item in settings.catalogues.items():
        lines.append(f"ok    catalogues.{name}: {item.kind}" + (f" at {item.url}" if item.url else ""))
    lines += [f"warn  {words}" for words in oversights(settings)]
    found = await weaknesses(settings.store, settings.store_password_file)
    lines += [f"warn  store: {weakness}" for weakness in found]
    if settings.platform is not None and settings.tariff is None:
        lines.append("warn  tariff: none is given, so prices are unknown, and unknown is not free: write tariff: free")
    if settings.platform is not None and is_address(settings.store):
        lines.append(
            "warn  platform: brokers on one store do not share a machine; where there are several, give the platform a "
            "broker of its own, and name that under sites"
        )
    if not settings.access.users and settings.access.anonymous == "no":
        lines.append("warn  access.users: nobody can sign in, so nobody can ask for offers")
    return lines


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────


def _registrations(settings: Settings) -> list[Registration]:
    own = settings.own_site
    return [*settings.sites.values(), *([own] if own else [])]


def _map(settings: Settings) -> Map:
    storages = [*settings.storages, *(storage for site in settings.sites.values() for storage in site.storages)]
    return Map(storages, settings.links, _exchange(settings))


def _exchange(settings: Settings) -> Exchange:
    money = settings.currencies
    return Exchange(money.base, money.rates, money.dated)


def _defaults(settings: Settings) -> Defaults:
    given = settings.ranking
    stand_ins = StandIns(
        price=Span(*given.price), carbon=Span(*given.carbon), bytes=Span(*given.bytes),
        egress=Span(*given.egress), bandwidth=Span(*given.bandwidth),
    )  # fmt: skip
    return Defaults(preset=given.preset, stand_ins=stand_ins)


def _timing(settings: Settings) -> Timing:
    given = settings.fanout
    return Timing(given.deadline, given.longest, given.grace, given.margin)


def _bounds(settings: Settings) -> Bounds:
    given = settings.locating
    return Bounds(given.patience, given.keep_failures, given.answers, given.most)


def _users(settings: Settings) -> dict[str, User]:
    return {
        name: User(
            password_hash=user.password_hash,
            token_sha256=user.token_sha256,
            roles=frozenset(user.roles),
            groups=user.groups,
            project=user.project,
        )
        for name, user in settings.access.users.items()
    }


def _anonymous(settings: Settings) -> Caller | None:
    if settings.access.anonymous != "loopback":
        return None
    roles = frozenset({"user", "operator"})
    return Caller(Owner(settings.name, "anonymous"), "anonymous", roles, anonymous=True)


def _credentials(settings: Settings, site: Registration) -> Credentials | None:
    """Raises SettingsError also where a site that is not of the settings file would get them sent to an address that
    the file does not name: whoever may register sites could have any secret of ours sent to a server of his own."""
    if site.credentials is None:
        return None
    given = settings.credentials.get(site.credentials)
    if given is None:
        raise SettingsError(f'"{site.credentials}" is not under credentials.', key="credentials")
    ours = site.name in settings.sites or (settings.platform is not None and site.name == settings.name)
    if not ours and _origin(site.url) not in _origins(settings, site.credentials, given):
        raise SettingsError(
            f'"{site.credentials}" may not be sent to this address.',
            key="credentials",
            remedy=f"Add it to credentials.{site.credentials}.origins in the settings file.",
        )
    return _signing(site.credentials, given)


def _signing(name: str, given: CredentialSettings) -> Credentials:
    return Credentials(given.username, _secret(name, given, "password"), _secret(name, given, "token"))


def _origins(settings: Settings, name: str, given: CredentialSettings) -> set[str]:
    known = (site.url for site in settings.sites.values() if site.credentials == name)
    return {_origin(url) for url in (*given.origins, *known)} - {""}


def _origin(url: str | None) -> str:
    """Scheme, host and port; empty: there is none."""
    try:
        return str(URL(url or "").origin())
    except ValueError:
        return ""


def _secret(name: str, given: CredentialSettings, what: str) -> str:
    path = given.password_file if what == "password" else given.token_file
    if path is None:
        return given.password if what == "password" else given.token
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError, UnicodeDecodeError) as error:
        why = {IndexError: "it is empty", UnicodeDecodeError: "it is no text"}.get(type(error)) or str(
            getattr(error, "strerror", error)
        )
        raise SettingsError(f"{path} cannot be read: {why}.", key=f"credentials.{name}.{what}_file") from error


def _http() -> aiohttp.ClientSession:
    """One pool for all sites."""
    return aiohttp.ClientSession(
        connector=connector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def _identify(store: Store) -> str:
    """This broker's id: drawn once, kept with its store."""
    for _ in range(3):
        stored = await store.read("broker")
        if stored is not None:
            return stored.record.decode()
        await store.write("broker", 0, str(uuid4()).encode())
    raise Unavailable("the store does not keep the broker's id.")


def _run(stack: AsyncExitStack, loop: Loop) -> None:
    """As a task, which ends with the stack."""
    stack.push_async_callback(_cancelled, asyncio.create_task(over_and_over(loop)))


async def over_and_over(loop: Loop) -> None:
    """Until it returns. One that ends by a fault that nobody foresaw is begun anew: without its timers, say, a broker
    would go on answering, and never finish anything."""
    while True:
        try:
            return await loop()
        except Exception:
            _log.exception("a loop of the broker has failed, and is begun anew", loop=repr(loop))
        await asyncio.sleep(BEGUN_ANEW)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def configure_logging(settings: Settings) -> None:
    """structlog to standard error: one line an event, JSON or text."""
    text = settings.log.format == "text"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if text else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
            if text
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Log())),
        cache_logger_on_first_use=False,
    )


class _Log:
    """Standard error, which may be a full disk, or a pipe that nobody reads any more. A line that cannot be written is
    lost, and nothing else: what was being done when it was written goes on."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
