"""The catalogue of kind `tap`: ObsCore through a TAP service, and the links documents that its rows lead to.

Imports the adapters' VOTables, asking and links, the domain's data and located. ObsCore has estimates in kB; what a
links document says of the same data is exact, and leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from adapters.common.http import tidy
from adapters.data.asking import Services
from adapters.data.datalink import MOST_DOCUMENTS, Links, amount, readable, refusal, replicas
from adapters.data.votable import Row
from broker.domain.data import AbstractDataResource, IvoaDataResource, IvoaObsCoreItem, SkaoDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, condense, is_linked, total
from broker.errors import SettingsError, SiteError, SiteForgot, SiteMisbehaved, SiteRefused
from broker.plugins import CataloguePlugin, CatalogueResources

ESTIMATE = "ObsCore access_estsize"
_COLUMNS = ("obs_publisher_did", "access_url", "access_format", "access_estsize")
_KILO = 1000.0  # access_estsize is in kbyte (ObsCore 1.1, 4.1.11)
_LONGEST = 1000  # characters of an identifier
_MARGIN = 0.2  # seconds that are left for what is known, when links documents take too long


class TapOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = Field("ivoa.obscore", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,2}$", description="where ObsCore is")
    most_rows: int = Field(
        1000, ge=1, le=3000, description="products that are read of one data set; of more the size reads unknown"
    )
    services: tuple[str, ...] = Field(
        (), description="beginnings of addresses of links services that may be asked, where rows lead to them"
    )


class TapCatalogue:
    """The name of a data set is the condition that its rows fulfil."""

    def __init__(self, options: TapOptions, resources: CatalogueResources) -> None:
        """Raises SettingsError."""
        if not resources.url:
            raise SettingsError("the address of the TAP service is missing.", key="url", remedy="Write url: https://…")
        self._services = Services(resources, options.services)
        self._links = Links(self._services, resources)
        self._options, self._clock = options, resources.clock
        self._sync = URL(resources.url.rstrip("/")) / "sync"
        self._place = self._sync.authority

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        """By the publisher's identifier, or by observation and collection; None where the request names neither, or
        in characters that no identifier has."""
        block = resource.ivoa if isinstance(resource, IvoaDataResource | SkaoDataResource) else None
        if block is None:
            return None
        row = block.obscore or IvoaObsCoreItem()
        if (publisher := row.obs_publisher_did or block.ivoid) is not None:
            return _condition(obs_publisher_did=publisher)
        if row.obs_id is None or row.obs_collection is None:
            return None
        kind = {} if row.dataproduct_type is None else {"dataproduct_type": row.dataproduct_type}
        level = "" if row.calib_level is None else f" AND calib_level = {row.calib_level:d}"
        found = _condition(obs_collection=row.obs_collection, obs_id=row.obs_id, **kind)
        return None if found is None else found + level

    async def locate(self, name: str, deadline: Deadline) -> Located:
        products = _products(await self._rows(name, deadline))
        found: list[Portion] = []
        estimated, trouble = False, ""
        for i, product in enumerate(products):
            files, guessed, why = await self._files(product, deadline, follow=i < MOST_DOCUMENTS)
            found += files
            estimated, trouble = estimated or guessed, trouble or why
        if not any(file.replicas or file.bytes is not None for file in found):
            raise SiteForgot(trouble or f"{self._place} tells neither a size nor an address to fetch from.")
        return Located(
            condense(found),
            estimated=estimated,
            sized=ESTIMATE if estimated else "",
            unknown=(trouble,) if trouble else (),
        )

    async def close(self) -> None:
        """There is nothing of its own to give back."""

    async def _files(
        self, product: _Product, deadline: Deadline, *, follow: bool
    ) -> tuple[tuple[Portion, ...], bool, str]:
        """Its files; whether their sizes are estimates; why the links document that it has was of no use."""
        guessed = product.size is not None
        if not product.linked:
            return (Portion(product.size, replicas(*product.urls)),), guessed, ""
        if not follow:
            return (Portion(product.size),), guessed, f"only {MOST_DOCUMENTS} links documents of one data set are read."
        try:
            files = await self._links.files(product.linked, deadline.less(_MARGIN))
        except SiteError as error:
            return (Portion(product.size),), guessed, error.detail
        if product.size is None or total(files) is not None:
            return files, False, ""
        return tuple(replace(file, bytes=product.size / len(files)) for file in files), True, ""

    async def _rows(self, condition: str, deadline: Deadline) -> tuple[Row, ...]:
        """Raises SiteForgot where there is no such row, or more than are read; other SiteErrors."""
        most = self._options.most_rows
        query = f"SELECT {', '.join(_COLUMNS)} FROM {self._options.table} WHERE {condition}"  # noqa: S608  see _literal
        words = {"REQUEST": "doQuery", "LANG": "ADQL", "RESPONSEFORMAT": "votable", "MAXREC": str(most), "QUERY": query}
        answer = await self._services.get(str(self._sync.with_query(words)), deadline)
        table = readable(answer, self._place)
        if answer.status != 200 or table is None:
            raise refusal(answer, table, self._place, self._clock.now())
        if table.status == "ERROR":
            raise SiteRefused(f"{self._place}: {tidy(table.words) or 'it says that it failed.'}")
        if not set(_COLUMNS) <= set(table.fields):
            raise SiteMisbehaved(f"{self._place}: it answered without the columns of ObsCore that were asked for.")
        if table.overflow or len(table.rows) > most:
            raise SiteForgot(f"{self._place} has more than {most} products of it, too many to be added up.")
        if not table.rows:
            raise SiteForgot(f"{self._place} has no such product in {self._options.table}.")
        return table.rows


class _Product(NamedTuple):
    """`size`: bytes, an estimate. `linked`: the address of its links document."""

    size: float | None
    urls: tuple[str, ...]
    linked: str


def _products(rows: Sequence[Row]) -> list[_Product]:
    """Rows of one publisher's identifier are ways to one product: its estimates differ by the format, and the largest
    counts. A row without one is a product of its own."""
    groups: dict[str | int, list[Row]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["obs_publisher_did"] or i, []).append(row)
    return [_product(group) for group in groups.values()]


def _product(rows: Sequence[Row]) -> _Product:
    sizes = [size for row in rows if (size := amount(row["access_estsize"], unit=_KILO)) is not None]
    linked = [url for row in rows if (url := row["access_url"]) and is_linked(row["access_format"])]
    urls = [url for row in rows if (url := row["access_url"]) and not is_linked(row["access_format"])]
    return _Product(max(sizes, default=None), tuple(urls), linked[0] if linked else "")


def _condition(**columns: str) -> str | None:
    literals = {column: _literal(text) for column, text in columns.items()}
    if None in literals.values():
        return None
    return " AND ".join(f"{column} = {literal}" for column, literal in literals.items())


def _literal(text: str) -> str | None:
    """A text as ADQL writes it. None for what is no identifier: a backslash, which some databases take to hide the
    quote after it, or what cannot be printed."""
    if not text or len(text) > _LONGEST or not text.isprintable() or "\\" in text:
        return None
    return "'" + text.replace("'", "''") + "'"


plugin = CataloguePlugin(options=TapOptions, make=TapCatalogue, trust=25, places=True)
