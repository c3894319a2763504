"""The catalogue of kind `datalink`: links documents (DataLink 1.1), which say of a data set which files it is.

Imports the adapters' VOTables and asking, the domain's data and located. `Links` reads documents for others too.
What a document says is another's word: a length that is none is not known, an address that is none is no place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from adapters.common.http import Answer, failure, tidy
from adapters.data.asking import Services, parse
from adapters.data.votable import Row, Votable, read
from broker.domain.data import AbstractDataResource, IvoaDataResource, IvoaDataResourceBlock, SkaoDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica, condense, is_linked
from broker.errors import NotAsked, SiteBusy, SiteError, SiteForgot, SiteMisbehaved, SiteTimeout, SiteUnreachable
from broker.plugins import CataloguePlugin, CatalogueResources

MOST_DOCUMENTS = 20  # that are read of one data set, where documents lead to documents
_THIS = ("#this", "http://www.ivoa.net/rdf/datalink/core#this", "https://www.ivoa.net/rdf/datalink/core#this")
_LARGEST = 2.0**63
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,9})?")
# What a site may fetch from. Others (file:, javascript:) are nobody's place but the reader's own.
_SCHEMES = (
    "http",
    "https",
    "ftp",
    "ftps",
    "sftp",
    "s3",
    "gs",
    "dav",
    "davs",
    "root",
    "roots",
    "xroot",
    "gsiftp",
    "srm",
)
_LONGEST = 4000  # characters of an address


class DatalinkOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    services: tuple[str, ...] = Field(
        (), description="beginnings of addresses of links services that may be asked, beside storages that are declared"
    )


class Links:
    """Reads links documents."""

    def __init__(self, services: Services, resources: CatalogueResources) -> None:
        self._services, self._clock = services, resources.clock

    async def files(self, address: str, deadline: Deadline) -> tuple[Portion, ...]:
        """The data set's own files (`#this`), a portion each, of the document and of those that it leads to; one at
        least.

        Raises NotAsked where an address may not be asked; SiteForgot where a document says that there is no such data,
        or names none; other SiteErrors."""
        found: list[Portion] = []
        open_, seen = [address], set[str]()
        while open_:
            address = open_.pop()
            url = parse(address)
            if (key := str(url or address)) in seen:
                raise SiteMisbehaved(f"the links document at {_place(url)} leads back to itself.")
            seen.add(key)
            if len(seen) > MOST_DOCUMENTS:
                raise SiteMisbehaved(f"more than {MOST_DOCUMENTS} links documents lead to one another.")
            files, further = _told(await self._document(address, deadline), _place(url))
            found += files
            open_ += further
        return tuple(found)

    async def _document(self, address: str, deadline: Deadline) -> Votable:
        answer = await self._services.get(address, deadline)
        place = _place(parse(address))
        table = readable(answer, place)
        if answer.status != 200 or table is None:
            raise refusal(answer, table, place, self._clock.now())
        if table.status == "ERROR":
            raise SiteForgot(f"{place}: {tidy(table.words) or 'it says that it failed.'}")
        if not {"access_url", "semantics"} <= set(table.fields):
            raise SiteMisbehaved(f"{place}: it answered with a table that is no links document.")
        if table.overflow:
            raise SiteMisbehaved(f"{place}: it answered with some of its links only.")
        return table


def _told(table: Votable, place: str) -> tuple[list[Portion], list[str]]:
    """The files of one document, and the addresses of documents that it leads to."""
    files: list[Portion] = []
    further: list[str] = []
    own = [row for row in table.rows if row["semantics"] in _THIS]
    for row in own:
        if row.get("error_message"):
            raise SiteForgot(f"{place}: {tidy(row['error_message'] or '')}")
        url = row["access_url"]
        if url and is_linked(row.get("content_type")):
            further.append(url)
        else:
            files.append(Portion(_length(row), replicas(None if row.get("service_def") else url)))
    if not own:
        failed = next((words for row in table.rows if (words := row.get("error_message"))), "")
        raise SiteForgot(f"{place}: {tidy(failed) or 'its links document names no data (#this).'}")
    return files, further


def readable(answer: Answer, place: str) -> Votable | None:
    """The VOTable that it is; None where the answer is an error that is none. Services explain their errors in one.
    Raises SiteMisbehaved where it ought to be one."""
    try:
        return read(answer.body)
    except SiteMisbehaved as error:
        if answer.status == 200:
            raise SiteMisbehaved(f"{place}: {error.detail}") from None
        return None


def refusal(answer: Answer, table: Votable | None, place: str, now: float) -> SiteError:
    """The error that an answer other than 200 is, with the service's own words where it has some."""
    words = table.words if table else ""
    error = failure(answer._replace(body=words.encode()) if words else answer, place, now)
    return SiteForgot(error.detail) if answer.status in (404, 410) else error


def replicas(*urls: str | None) -> tuple[Replica, ...]:
    """Of those that are addresses a site could fetch from."""
    return tuple(Replica(None, url) for url in dict.fromkeys(urls) if url and _fetchable(url))


def _fetchable(text: str) -> bool:
    try:
        url = URL(text)
        return len(text) <= _LONGEST and text.isprintable() and url.scheme in _SCHEMES and bool(url.host)
    except ValueError:
        return False


def amount(text: str | None, *, unit: float = 1.0) -> float | None:
    """A size in bytes. None for what is no number, not above zero, or larger than any file: zero is what services
    write as well that do not know."""
    if text is None or not _NUMBER.fullmatch(text):
        return None
    size = float(text) * unit
    return size if 0 < size < _LARGEST else None


def _length(row: Row) -> float | None:
    size = amount(row.get("content_length"))
    return size if size is None or size.is_integer() else None


def _place(url: URL | None) -> str:
    return url.authority if url else "an address that is none"


class DatalinkCatalogue:
    def __init__(self, options: DatalinkOptions, resources: CatalogueResources) -> None:
        """Raises SettingsError."""
        self._services = Services(resources, options.services)
        self._links = Links(self._services, resources)
        self._by_name = parse(resources.url) if resources.url else None

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        """The address of its links document: as the request states it, as one of `urls` leads to a links service that
        the options name, or by its ID at our own."""
        block = resource.ivoa if isinstance(resource, IvoaDataResource | SkaoDataResource) else None
        if (stated := _stated(block)) is not None:
            return stated
        for text in urls:
            url = parse(text)
            if url is not None and self._services.named(url):
                return str(url)
        identifier = _identifier(block)
        if self._by_name is None or identifier is None:
            return None
        return str(self._by_name.update_query(ID=identifier))

    async def locate(self, name: str, deadline: Deadline) -> Located:
        try:
            return Located(condense(await self._links.files(name, deadline)))
        except (NotAsked, SiteForgot):
            raise
        except SiteError as error:
            # Users choose the address. What one of them leads to is no fault of the services that others ask.
            url = parse(name)
            ours = url is not None and self._services.named(url)
            if ours and isinstance(error, SiteUnreachable | SiteTimeout | SiteBusy):
                raise
            raise SiteForgot(error.detail) from error

    async def close(self) -> None:
        """There is nothing of its own to give back."""


def _stated(block: IvoaDataResourceBlock | None) -> str | None:
    obscore = block.obscore if block else None
    if obscore is None or not obscore.access_url or not is_linked(obscore.access_format):
        return None
    url = parse(obscore.access_url)
    return str(url) if url else obscore.access_url  # whoever asks is told why it is not asked


def _identifier(block: IvoaDataResourceBlock | None) -> str | None:
    """What links services are asked by: the row's ID where it stands for the data itself, or the publisher's."""
    if block is None:
        return None
    row = block.datalink
    if row is not None and row.ID and not row.access_url and row.semantics in (None, *_THIS):
        return row.ID
    return block.obscore.obs_publisher_did if block.obscore else None


plugin = CataloguePlugin(options=DatalinkOptions, make=DatalinkCatalogue, trust=20, places=True)
