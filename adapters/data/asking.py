"""Which addresses a catalogue may ask, and asking them. Imports `adapters.common.http`, the errors, the plugins' parts.

Users write addresses into their requests, and services lead to further ones. What the operator has named is asked,
and nothing else: the catalogue's own service, prefixes in its options, and storages that are declared. A redirect
is held to the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from yarl import URL

from adapters.common.http import Answer, Origin, tidy
from broker.domain.addresses import bare
from broker.domain.deadline import Deadline
from broker.errors import NotAsked, SettingsError, SiteMisbehaved
from broker.plugins import CatalogueResources, Credentials

CAP_BYTES = 2 << 20
MOST_HOPS = 4  # redirects; services send a client on to a mirror, or to where a result lies
_LONGEST = 4000  # characters


class Services:
    """The services that a catalogue may ask: what lies below its own `url`, or below one of `prefixes`, or on a storage
    that is declared. Its credentials go below its own `url`, and nowhere else."""

    def __init__(self, resources: CatalogueResources, prefixes: Sequence[str]) -> None:
        """Raises SettingsError for what is no address, and for credentials that could go nowhere."""
        self._resources = resources
        self._prefixes = tuple(_prefix(text, "options.services") for text in prefixes)
        self._origins: dict[URL, Origin] = {}
        self._own: tuple[URL, Origin] | None = None
        if resources.url:
            own = _prefix(resources.url, "url")
            self._prefixes = (own, *self._prefixes)
            self._own = own, self._opened(own, resources.credentials)
        elif resources.credentials:
            raise SettingsError("there is no url that they could be sent to.", key="credentials")

    def may(self, url: URL) -> bool:
        return self.named(url) or self._resources.declared(str(url))

    def named(self, url: URL) -> bool:
        """It is the catalogue's own service, or the options name it."""
        return any(_below(url, prefix) for prefix in self._prefixes)

    async def get(self, text: str, deadline: Deadline) -> Answer:
        """Where that is `text`, or where it leads: any status but a redirect. Raises NotAsked where it may not be
        asked, and what Origin raises."""
        url = parse(text)
        for _ in range(MOST_HOPS + 1):
            if url is None or not self.may(url):
                raise NotAsked(
                    f"not asked: {_shown(str(url or text))} is not an address that this broker may ask "
                    f"(catalogues.{self._resources.name}.options.services)."
                )
            answer = await self._origin(url).send("GET", url, deadline=deadline, headers=_ACCEPT)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            text = answer.headers.get("Location", "")
            url = parse(text, url)
        raise SiteMisbehaved(f"{url.authority if url else _shown(text)} redirects more than {MOST_HOPS} times.")

    def _origin(self, url: URL) -> Origin:
        if self._own and _below(url, self._own[0]):
            return self._own[1]
        origin = url.origin()
        if origin not in self._origins:  # there are no more of them than the operator has named
            self._origins[origin] = self._opened(origin, None)
        return self._origins[origin]

    def _opened(self, url: URL, credentials: Credentials | None) -> Origin:
        resources = self._resources
        return Origin(resources.http, str(url), resources.clock, credentials=credentials, cap_bytes=CAP_BYTES)


_ACCEPT = {"Accept": "application/x-votable+xml, text/xml;q=0.9, application/xml;q=0.9, */*;q=0.1"}


def parse(text: str, seen_from: URL | None = None) -> URL | None:
    """As it would be sent, `..` worked out and no fragment; None: nothing that could be asked by HTTP. What some
    servers take for a way upwards (`..%2F`) is none."""
    try:
        url = URL(text.strip()[: _LONGEST + 1])
        url = (seen_from.join(url) if seen_from else url).with_fragment(None)
        if url.scheme not in ("http", "https") or not url.host or not url.port or url.user or url.password:
            return None
        url = url.with_port(None) if url.is_default_port() else url
    except ValueError:
        return None
    return None if len(str(url)) > _LONGEST or ".." in re.split(r"[/\\]", url.path) else url


def _shown(text: str) -> str:
    """For people, and for a log: without what may be a key in it."""
    return tidy(bare(text.strip()))


def _prefix(text: str, key: str) -> URL:
    url = parse(text)
    if url is None:
        raise SettingsError(f'"{text}" is no http or https address.', key=key)
    return url.with_query(None)


def _below(url: URL, prefix: URL) -> bool:
    """A slash at the end is of no account, and neither is a query."""
    base, path = prefix.raw_path.rstrip("/"), url.raw_path.rstrip("/")
    return url.origin() == prefix.origin() and (path == base or path.startswith(f"{base}/"))
