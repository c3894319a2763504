"""Every setting of a broker: read from one YAML file, overridden by `BROKER_…` variables, validated at start.

Imports the domain and errors. Reading a file does no other I/O; whether sites answer is for the running broker.
The JSON Schema of this file is generated into config/settings.schema.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from broker.domain.quantities import parse_duration
from broker.domain.site import Link, Registration, StorageElement
from broker.errors import SettingsError
from broker.plugins import settings_fault
from broker.store.opening import is_address, shown


def _seconds(value: object) -> object:
    """Durations are written in ISO 8601 (`PT30S`) or as a number of seconds."""
    return parse_duration(value).total_seconds() if isinstance(value, str) and value.startswith("P") else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
Years = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=100 * 366 * 86400, allow_inf_nan=False)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the lower bound comes first")
    return pair


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re")


class User(Part):
    """One of `password_hash` and `token_sha256`. Make the first with `broker password`, the second with
    `printf %s TOKEN | sha256sum`."""

    password_hash: str | None = Field(None, repr=False, description="argon2 hash", pattern=r"^\$argon2")
    token_sha256: str | None = Field(
        None, repr=False, description="hex SHA-256 of a random token", pattern="^[0-9a-f]{64}$"
    )
    roles: tuple[Literal["user", "operator", "administrator", "broker"], ...] = Field(
        ("user",), description="what the account may do; broker: speaks for the users of the broker above"
    )
    groups: tuple[str, ...] = Field((), description="kept with what the account asks for, and told to brokers below")
    project: str | None = Field(None, description="kept with what the account asks for")

    @model_validator(mode="after")
    def _one_secret(self) -> User:
        if bool(self.password_hash) == bool(self.token_sha256):
            raise ValueError("one of password_hash and token_sha256 is wanted")
        return self


class Access(Part):
    """Who may do what. Nobody changes anything without signing in, but on the demo's loopback."""

    users: dict[str, User] = Field(default_factory=dict, description="name → account")
    anonymous: Literal["no", "loopback"] = Field(
        "no",
        description="loopback: who calls from this machine needs not sign in (demo, teaching); needs a loopback listen",
    )
    readers: Literal["own", "all", "public"] = Field(
        "own", description="who may read sessions: their owner, everybody signed in, or everybody"
    )


class CredentialSettings(Part):
    """What signs us in at a site; a secret may stand in a file of its own (first line)."""

    username: str = Field("", description="sent with the password, as HTTP Basic")
    password: str = Field("", repr=False, description="better in a file of its own")
    password_file: Path | None = Field(None, description="its first line is the password")
    token: str = Field("", repr=False, description="sent as Bearer; better in a file of its own")
    token_file: Path | None = Field(None, description="its first line is the token")
    origins: tuple[str, ...] = Field(
        (),
        description="addresses, such as https://site.example, at which sites registered while the broker runs may "
        "use them; the sites of this file always may",
    )


class Currencies(Part):
    base: Currency = Field("EUR", description="what ranks, and what a bare number of money is in")
    rates: dict[Currency, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="currency → how much of the base one unit is worth"
    )
    dated: str = Field("", description="when the rates were taken, for the reader")


class FanoutSettings(Part):
    deadline: Seconds = Field(10.0, description="for the answer to a request that brings no deadline of its own")
    longest: Seconds = Field(60.0, description="the most a caller's own deadline may ask for")
    grace: Seconds = Field(10.0, description="how long after the answer a late site's offers still join the set")
    margin: Annotated[float, Field(ge=0, le=600)] = Field(
        5.0, description="seconds by which an offer ends for us before it ends at its site; at most 5 % of its life"
    )
    at_once: Annotated[int, Field(ge=1, le=10_000)] = Field(
        200, description="sites asked side by side; of more, those that can win are asked first, so many at a time"
    )


Between = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_ordered)]


class RankingSettings(Part):
    """Stand-ins, each [low, high], take the place of what is not known; what they touch is marked `?`."""

    preset: Literal["cheapest", "fastest", "closest", "greenest", "balanced"] = Field(
        "balanced", description="what ranks where a request names no preset"
    )
    price: Between = Field((0.5, 3.5), description="stand-in: money for an hour of the run, base currency")
    egress: Between = Field((0.0, 0.1), description="stand-in: money for a GB moved, base currency")
    bandwidth: Between = Field((20e6, 180e6), description="stand-in: bytes a second of an unknown link")
    bytes: Between = Field((1e9, 19e9), description="stand-in: bytes of all data whose size is not known")
    carbon: Between = Field((0.5, 0.5), description="stand-in: kg CO2e for an hour of the run")


class CatalogueSettings(Part):
    """What says where data lies, beyond what a request states."""

    kind: str = Field(description="which adapter speaks to it (an entry point of the group broker.catalogues)")
    url: str | None = Field(None, description="its address, where its kind has one")
    credentials: str | None = Field(
        None, description="name of an entry under `credentials`; sent to this catalogue only"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the adapter's own settings")
    timeout: Seconds = Field(5.0, description="seconds for one call")
    concurrency: Annotated[int, Field(ge=1, le=1000)] = Field(8, description="calls under way at once")
    keep: Seconds = Field(3600.0, description="how long an answer of it is used again")


class LocatingSettings(Part):
    patience: Seconds = Field(
        2.0,
        description="how long the sites wait for the catalogues before they are asked; what comes later still ranks",
    )
    keep_failures: Seconds = Field(30.0, description="how long a catalogue is not asked again what it could not say")
    answers: Annotated[int, Field(ge=1, le=10_000_000)] = Field(10_000, description="the most that are kept")
    most: Annotated[int, Field(ge=0, le=100_000)] = Field(
        200, description="data resources of one request that catalogues are asked for; the rest reads unknown"
    )


class AcceptanceSettings(Part):
    forward: Seconds = Field(20.0, description="how long one acceptance may take at a site before it is in doubt")
    patience: Seconds = Field(
        30.0, description="how long a plain site may read OFFERED before the acceptance is withdrawn"
    )
    direct: Literal["open", "guarded"] = Field(
        "open", description="guarded: POST /direct refuses unknown prices, and unbounded ones unless free"
    )


SHORTEST_RECORDS = 2 * 86400.0  # seconds; longer than services/keys.KEPT, or a key would make its set once more


class LimitSettings(Part):
    json_bytes: Annotated[int, Field(ge=1024, le=2**28)] = Field(4 * 2**20, description="largest JSON body, bytes")
    yaml_bytes: Annotated[int, Field(ge=1024, le=65536)] = Field(65536, description="largest YAML body, bytes")
    xml_bytes: Annotated[int, Field(ge=1024, le=2**20)] = Field(2**18, description="largest XML body, bytes")
    keep_offers: Seconds = Field(7 * 86400.0, description="how long the offers of a set can be read")
    keep_records: Years = Field(
        400 * 86400.0,
        description="after which a set that is over is reduced to the session that was taken and its decision, or "
        "removed where none was; 0: never",
    )

    @model_validator(mode="after")
    def _in_turn(self) -> LimitSettings:
        if self.keep_records and self.keep_records <= self.keep_offers:
            raise ValueError("keep_records is 0, or longer than keep_offers")
        if 0 < self.keep_records < SHORTEST_RECORDS:
            raise ValueError("keep_records is 0, or two days at least: what has an Idempotency-Key is known for one")
        return self


class StopSettings(Part):
    drain: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        0.0,
        description="seconds between saying that it is not ready any more and taking no more calls: behind a load "
        "balancer, as long as it takes to notice",
    )


class LogSettings(Part):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is written")
    format: Literal["json", "text"] = Field("text", description="json: one object a line")


class Settings(BaseSettings):
    """The whole file. `platform` makes this broker a site: the keys from `tariff` to `offers` say on what terms."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        regex_engine="python-re",
        env_prefix="BROKER_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    name: str = Field(description="this broker's name, as users see it", pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    listen: str = Field(
        "127.0.0.1:8080", description="address and port; port 0 takes a free one", pattern=r"^.+:\d{1,5}$"
    )
    public_url: str | None = Field(None, description="what clients call us by, where a proxy stands before us")
    store: str = Field(
        "broker.db",
        repr=False,  # an address may hold a password
        description="the database file, relative to the settings file, or the address of a Redis",
    )
    store_password_file: Path | None = Field(None, description="its first line is the password of the Redis")
    contact: str | None = Field(None, description="whom to ask about this broker's own site")
    default_format: Literal["json", "yaml"] = Field(
        "json", description="what is written, and read, where a caller names no format"
    )
    access: Access = Field(Access(), description="who may do what")
    credentials: dict[str, CredentialSettings] = Field(
        default_factory=dict, description="name → what signs us in at a site"
    )
    sites: dict[str, Registration] = Field(default_factory=dict, description="name → site that is asked for offers")
    links: tuple[Link, ...] = Field((), description="what lies between storages")
    catalogues: dict[str, CatalogueSettings] = Field(
        default_factory=dict, description="name → what says where data lies"
    )
    locating: LocatingSettings = Field(LocatingSettings(), description="how the catalogues are asked")
    currencies: Currencies = Field(Currencies(), description="money of several currencies, brought to one")
    fanout: FanoutSettings = Field(FanoutSettings(), description="how long sites may take to answer")
    ranking: RankingSettings = Field(RankingSettings(), description="the preset, and what stands in for unknowns")
    acceptance: AcceptanceSettings = Field(AcceptanceSettings(), description="how an offer is taken")
    limits: LimitSettings = Field(LimitSettings(), description="sizes of bodies, and how long offers are kept")
    stop: StopSettings = Field(StopSettings(), description="how it ends when it is told to")
    log: LogSettings = Field(LogSettings(), description="what is written to standard error")

    platform: dict[str, Any] | None = Field(
        None,
        description="kind, that adapter's own options, and `credentials`: the name of an entry under `credentials`",
    )
    tariff: Any = Field(
        None, description="`free`, or prices; without one the price is unknown, and unknown is not free"
    )
    capacity: dict[str, Any] | None = Field(None, description="the room that may be filled, and how fast it is")
    policies: Any = Field(None, description="what is allowed, ceilings, quotas")
    offers: dict[str, Any] | None = Field(None, description="how many offers, how long they live, how far they look")
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = Field(
        None, description="where the platform stands, ISO 3166-1 alpha-2"
    )
    storages: tuple[StorageElement, ...] = Field((), description="the storages at the platform")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # the environment has the last word

    @field_validator("sites", mode="before")
    @classmethod
    def _name_sites(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {k: {**v, "name": k} if isinstance(v, dict) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.port > 65535:
            raise ValueError("listen: a port is a number from 0 to 65535")
        if self.access.anonymous == "loopback" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("access.anonymous: loopback needs listen on 127.0.0.1 or [::1]")
        if self.platform is not None and "kind" not in self.platform:
            raise ValueError("platform.kind is wanted, such as local or simulated")
        for place, name in self._named_credentials():
            if name is not None and name not in self.credentials:
                known = ", ".join(sorted(self.credentials)) or "none"
                raise ValueError(f"{place}.credentials: {name!r} is not under credentials; there are: {known}")
        if self.platform is not None and self.name in self.sites:
            raise ValueError(f"sites.{self.name}: a broker with a platform is itself the site of its name")
        return self

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    def _named_credentials(self) -> Iterator[tuple[str, Any]]:
        """Where an entry of `credentials` is named, and its name; None where none is."""
        yield from ((f"sites.{name}", site.credentials) for name, site in self.sites.items())
        yield from ((f"catalogues.{name}", catalogue.credentials) for name, catalogue in self.catalogues.items())
        if self.platform is not None:
            yield "platform", self.platform.get("credentials")

    @property
    def own_site(self) -> Registration | None:
        """The bare platform behind this broker, as a site of its own name."""
        if self.platform is None:
            return None
        options = {key: value for key, value in self.platform.items() if key not in ("kind", "credentials")}
        return Registration(
            name=self.name, kind=self.platform["kind"], options=options, country=self.country,
            credentials=self.platform.get("credentials"), storages=self.storages, contact=self.contact, poll=1.0,
        )  # fmt: skip

    @property
    def site_settings(self) -> dict[str, Any]:
        """On what terms the platform is offered; validated by adapters/planning."""
        names = ("tariff", "capacity", "policies", "offers", "country")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def _yaml_fault(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "it holds characters that YAML does not allow"
    mark, told = error.problem_mark, error.problem or error.context
    if isinstance(error, yaml.composer.ComposerError | yaml.constructor.ConstructorError):
        told = "a text that begins with !, & or * stands in quotes"
    return f"line {mark.line + 1}, column {mark.column + 1}: {told}"


def load_settings(path: str | Path) -> Settings:
    """Read and validate. Raises SettingsError naming file, key and what is allowed: one line, the first fault.

    Relative paths of the store, of secrets and of a platform's `folder` are taken from the file's own folder."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise SettingsError(f"cannot be read: {reason or error}.", file=str(file)) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Not the parser's own words whole: they quote the line, and it may hold a secret.
        raise SettingsError(f"is no YAML: {_yaml_fault(error)}", file=str(file)) from None
    if not isinstance(values, dict):
        raise SettingsError("holds keys and values, at least `name:`", file=str(file))
    try:
        settings = Settings(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise settings_fault(error, Settings, file=str(file)) from None
    try:
        shown(settings.store)
    except SettingsError as error:
        raise SettingsError(error.detail, file=str(file), key=error.key, remedy=error.remedy) from None
    return _anchored(settings, file.parent)


def _anchored(settings: Settings, folder: Path) -> Settings:
    """With relative paths taken from `folder`: a broker started from elsewhere must find its store and jobs again."""
    changes: dict[str, Any] = {}
    if not is_address(settings.store):
        changes["store"] = str(folder / settings.store)
    if settings.store_password_file is not None:
        changes["store_password_file"] = folder / settings.store_password_file
    if settings.platform and isinstance(settings.platform.get("folder"), str):
        changes["platform"] = {**settings.platform, "folder": str(folder / settings.platform["folder"])}
    changes["credentials"] = {
        name: given.model_copy(update={key: folder / path for key, path in _files(given)})
        for name, given in settings.credentials.items()
    }
    return settings.model_copy(update=changes)


def _files(given: CredentialSettings) -> list[tuple[str, Path]]:
    named = (("password_file", given.password_file), ("token_file", given.token_file))
    return [(key, path) for key, path in named if path is not None]
