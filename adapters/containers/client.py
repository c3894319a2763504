"""The calls to a container engine, and what their failures mean. Imports aiohttp, common's HTTP, this package.

Docker's Engine API, docs.docker.com/reference/api/engine/version/v1.41, as Docker and Podman speak it. Their codes
differ (409 or 500 for a name that is taken, say), so whoever calls looks at what is there rather than at codes; 404
alone is common ground.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from adapters.common.http import Answer, Origin, failure, http_date, tidy
from adapters.containers import images
from adapters.containers.options import ContainersOptions
from broker.domain.deadline import Deadline
from broker.errors import SiteForbids, SiteMisbehaved
from broker.ports import Clock

PLACE = "the container engine"
# What is spoken here, the latest that an engine knows. 1.41: Docker 20.10, and Podman as it says. 1.44: Docker 25, and
# the least that Docker takes from 29 on.
VERSIONS = ((1, 44), (1, 41))
_ASKED_AGAIN = 60.0  # seconds
_LONGEST_LINE = 1024 * 1024  # bytes of a pull's line
_JSON = {"Content-Type": "application/json"}


class About(NamedTuple):
    """What an engine says of itself. `name`: and version, for people; `memory` in bytes; None: it does not say."""

    name: str
    architecture: str
    cores: int | None
    memory: int | None


class Engine:
    """One engine. Connects at the first call. What all methods raise: SiteError, as `adapters.common.http` says."""

    def __init__(self, options: ContainersOptions, clock: Clock) -> None:
        self._options, self._clock = options, clock
        self._http: aiohttp.ClientSession | None = None
        self._origin: Origin | None = None
        self._about: tuple[float, About] | None = None  # and when it was asked, monotonic
        self._version = ""

    async def close(self) -> None:
        http, self._http, self._origin = self._http, None, None
        if http is not None:
            await http.close()

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    async def about(self, deadline: Deadline) -> About:
        """Asked once a minute at most: Podman takes half a second to say it."""
        now = self._clock.monotonic()
        if self._about is None or now >= self._about[0] + _ASKED_AGAIN:
            found = _object(await self._get(["info"], {}, deadline))
            cores, memory = found.get("NCPU"), found.get("MemTotal")
            about = About(
                tidy(f"{'Podman' if 'BuildahVersion' in found else 'Docker'} {found.get('ServerVersion')}", 80),
                images.architecture(str(found.get("Architecture", ""))[:40]),
                cores if isinstance(cores, int) and cores > 0 else None,
                memory if isinstance(memory, int) and memory > 0 else None,
            )
            self._about = now, about
        return self._about[1]

    async def _spoken(self, deadline: Deadline) -> str:
        if not self._version:
            origin = self._opened()
            answer = self._right(await origin.send("GET", origin.at("_ping"), deadline=deadline))
            theirs = _number(answer.headers.get("Api-Version"))
            version = next((one for one in VERSIONS if one <= theirs), None)
            if version is None:
                raise SiteMisbehaved(f"{PLACE} speaks no version of the Engine API from {_dotted(VERSIONS[-1])} on.")
            self._version = _dotted(version)
        return self._version

    # ── marks ────────────────────────────────────────────────────────────────────────────────────────────────

    async def volumes(
        self, label: str, names: Collection[str], deadline: Deadline
    ) -> tuple[list[dict[str, Any]], float]:
        """Those with the label, and what the engine's clock said; `names`: where not empty, others may be left out."""
        answer = await self._get(["volumes"], {"filters": _filters(label, names)}, deadline)
        return _objects(_object(answer).get("Volumes") or []), self._time(answer)

    async def make_volume(self, name: str, labels: Mapping[str, str], deadline: Deadline) -> None:
        """Nothing, where it is there."""
        body = {"Name": name, "Driver": "local", "Labels": dict(labels)}
        answer = await self._send("POST", ["volumes", "create"], {}, deadline, body)
        if answer.status not in (200, 201) and not (
            answer.status >= 500 and await self.volume(name, deadline)  # Podman, to the slower of two
        ):
            raise self._failure(answer)

    async def volume(self, name: str, deadline: Deadline) -> dict[str, Any] | None:
        answer = await self._send("GET", ["volumes", name], {}, deadline)
        return None if answer.status == 404 else _object(self._right(answer))

    async def remove_volume(self, name: str, deadline: Deadline) -> None:
        await self._gone("DELETE", ["volumes", name], {}, deadline)

    # ── images ───────────────────────────────────────────────────────────────────────────────────────────────

    async def image(self, name: str, deadline: Deadline) -> dict[str, Any] | None:
        answer = await self._send("GET", ["images", *name.split("/"), "json"], {}, deadline)
        return None if answer.status == 404 else _object(self._right(answer))

    async def pull(
        self, image: images.Reference, platform: str, login: tuple[str, str] | None, deadline: Deadline
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The lines that tell how it goes. An error in them is for the caller to find: `images.trouble`."""
        query = {"fromImage": image.repository, "tag": image.digest or image.tag}
        url = await self._url(["images", "create"], query | ({"platform": platform} if platform else {}), deadline)
        headers = {"X-Registry-Auth": _login(image.registry, login)} if login else {}
        rest = b""
        async with aclosing(self._opened().stream(url, deadline=deadline, method="POST", headers=headers)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise SiteMisbehaved(f"{PLACE} does not end the line in which it tells of a pull.")
                for line in lines:
                    if (read := _line(line)) is not None:
                        yield read
        if (read := _line(rest)) is not None:
            yield read

    # ── containers ───────────────────────────────────────────────────────────────────────────────────────────

    async def containers(self, label: str, names: Collection[str], deadline: Deadline) -> list[dict[str, Any]]:
        """As `volumes`, those that do not run too."""
        query = {"all": "true", "filters": _filters(label, names)}
        return _objects(_list(self._right(await self._read(["containers", "json"], query, deadline))))

    async def container(self, name: str, deadline: Deadline) -> dict[str, Any] | None:
        answer = await self._read(["containers", name, "json"], {}, deadline)
        return None if answer.status == 404 else _object(self._right(answer))

    async def create(self, name: str, platform: str, body: Mapping[str, Any], deadline: Deadline) -> None:
        query = {"name": name} | ({"platform": platform} if platform else {})
        self._right(await self._send("POST", ["containers", "create"], query, deadline, body), (201,))

    async def start(self, name: str, deadline: Deadline) -> None:
        self._right(await self._send("POST", ["containers", name, "start"], {}, deadline), (204, 304))

    async def stop(self, name: str, grace: int, deadline: Deadline) -> None:
        """Answers when it has ended: by its signal, or after `grace` seconds by force."""
        await self._gone("POST", ["containers", name, "stop"], {"t": str(grace)}, deadline)

    async def remove(self, name: str, deadline: Deadline) -> None:
        """One that does not run, with its unnamed volumes."""
        await self._gone("DELETE", ["containers", name], {"v": "true"}, deadline)

    async def put(self, name: str, path: str, tar: AsyncIterable[bytes], deadline: Deadline) -> None:
        url = await self._url(["containers", name, "archive"], {"path": path}, deadline)
        headers = {"Content-Type": "application/x-tar"}
        self._right(await self._opened().send("PUT", url, deadline=deadline, body=tar, headers=headers))

    async def archive(self, name: str, path: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """A tar of what is at `path`. Raises SiteRefused with status 404 where nothing is."""
        url = await self._url(["containers", name, "archive"], {"path": path}, deadline)
        async with aclosing(self._opened().stream(url, deadline=deadline)) as pieces:
            async for piece in pieces:
                yield piece

    async def logs(self, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """Both streams from their beginning, in frames. Of the last lines alone, Podman 4.3 loses what was written
        without an end of line."""
        query = {"stdout": "true", "stderr": "true"}
        url = await self._url(["containers", name, "logs"], query, deadline)
        async with aclosing(self._opened().stream(url, deadline=deadline)) as pieces:
            async for piece in pieces:
                yield piece

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> Origin:
        if self._origin is None:
            parts = urlsplit(self._options.url)
            connector: aiohttp.BaseConnector
            if parts.scheme == "unix":
                connector, base = aiohttp.UnixConnector(parts.path, limit=0), "http://engine"
            else:
                secure = _tls(self._options)
                connector = aiohttp.TCPConnector(limit=0, ssl=secure or True)
                base = f"{'https' if secure else 'http'}://{parts.netloc}"
            self._http = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            self._origin = Origin(self._http, base, self._clock)
            self._origin.place = PLACE
        return self._origin

    async def _url(self, steps: Sequence[str], query: Mapping[str, str], deadline: Deadline) -> Any:
        version = await self._spoken(deadline)
        return self._opened().at(f"v{version}", *steps).with_query(dict(query))

    async def _send(
        self,
        method: str,
        steps: Sequence[str],
        query: Mapping[str, str],
        deadline: Deadline,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        url = await self._url(steps, query, deadline)
        data = None if body is None else msgspec.json.encode(body)
        return await self._opened().send(method, url, deadline=deadline, body=data, headers=_JSON if body else None)

    async def _get(self, steps: Sequence[str], query: Mapping[str, str], deadline: Deadline) -> Answer:
        return self._right(await self._send("GET", steps, query, deadline))

    async def _read(self, steps: Sequence[str], query: Mapping[str, str], deadline: Deadline) -> Answer:
        """Once more after 500: so Podman answers where a container goes while it looks."""
        answer = await self._send("GET", steps, query, deadline)
        return answer if answer.status != 500 else await self._send("GET", steps, query, deadline)

    async def _gone(self, method: str, steps: Sequence[str], query: Mapping[str, str], deadline: Deadline) -> None:
        """What is not there needs no end."""
        answer = await self._send(method, steps, query, deadline)
        if answer.status != 404:
            self._right(answer, (200, 204, 304))

    def _right(self, answer: Answer, statuses: Collection[int] = (200,)) -> Answer:
        if answer.status not in statuses:
            raise self._failure(answer)
        return answer

    def _failure(self, answer: Answer) -> Exception:
        return failure(answer, PLACE, self._clock.now(), doubtful=True)

    def _time(self, answer: Answer) -> float:
        said = http_date(answer.headers.get("Date", ""))
        return self._clock.now() if said is None else said


def _list(answer: Answer) -> list[Any]:
    found = _decoded(answer)
    if not isinstance(found, list):
        raise SiteMisbehaved(f"{PLACE} answered with something else than a list.")
    return found


def _object(answer: Answer) -> dict[str, Any]:
    found = _decoded(answer)
    if not isinstance(found, dict):
        raise SiteMisbehaved(f"{PLACE} answered with something else than an object.")
    return found


def _decoded(answer: Answer) -> Any:
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SiteMisbehaved(f"{PLACE} answered with something that is no JSON.") from None


def _objects(found: Any) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _line(line: bytes) -> dict[str, Any] | None:
    try:
        read = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _filters(label: str, names: Collection[str]) -> str:
    """Both engines find a name as a part of names too, so more may come than was asked for."""
    return msgspec.json.encode({"label": [label]} | ({"name": sorted(names)} if names else {})).decode()


def _login(registry: str, login: tuple[str, str]) -> str:
    """The header X-Registry-Auth: docs.docker.com/reference/api/engine, Authentication."""
    host = "https://index.docker.io/v1/" if registry == "docker.io" else registry
    words = {"username": login[0], "password": login[1], "serveraddress": host}
    return base64.urlsafe_b64encode(msgspec.json.encode(words)).decode()


def _number(version: object) -> tuple[int, ...]:
    parts = str(version).split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() and len(part) < 5 for part in parts) else (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _tls(options: ContainersOptions) -> ssl.SSLContext | None:
    if options.tls is None:
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls.ca_file)
        context.load_cert_chain(options.tls.cert_file, options.tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise SiteForbids(f"the certificates for {PLACE} cannot be used: {error.strerror or error}.") from None
    return context
