"""The ways in which a site on the far side of a socket can go wrong, as a table. Imports aiohttp's server side.

Every fault takes the request and the answer that a sound site would have given, and spoils it. `FAULTS` are the names
that `broker.testing.site.FakeSite.behave` takes; a name may carry an argument after a colon (`status:503`).
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

FLOOD = 100_000_000
BOMB = 200_000_000
MILLION = 1_000_000
_PIECE = 1 << 16


@dataclass(frozen=True)
class Sound:
    """What a sound site would answer."""

    status: int
    document: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return b"" if self.document is None else msgspec.json.encode(self.document)

    def response(self) -> web.Response:
        return _respond(self, self.body)


@dataclass(frozen=True)
class Scene:
    """Where a fault happens. `argument` is what stood after the colon; `ended` is set when the site closes."""

    request: web.Request
    sound: Sound
    argument: str
    ended: asyncio.Event


Fault = Callable[[Scene], Awaitable[web.StreamResponse]]


class _Gone(web.StreamResponse):
    """Tells the server that everything has been sent, or never will be."""

    async def prepare(self, request: web.BaseRequest) -> None:
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None: ...


def _respond(sound: Sound, body: bytes, **headers: str) -> web.Response:
    kept = {"Content-Type": "application/json", **sound.headers, **headers}
    return web.Response(status=sound.status, body=body, headers=kept)


def _reset(request: web.Request) -> _Gone:
    """End the connection with RST: no linger, nothing more is sent."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return _Gone()


async def _flushed(request: web.Request, data: bytes) -> None:
    """Write raw bytes and give the loop a turn, so that they leave before what follows."""
    if request.transport is not None:
        request.transport.write(data)
    await asyncio.sleep(0)


def _head(sound: Sound, length: int) -> bytes:
    fields = {"Content-Type": "application/json", **sound.headers, "Content-Length": str(length)}
    lines = [f"HTTP/1.1 {sound.status} Sound", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


# ── the connection ───────────────────────────────────────────────────────────────────────────────────────────


async def hang(scene: Scene) -> web.StreamResponse:
    """Not a byte, until the site closes."""
    await scene.ended.wait()
    return _reset(scene.request)


async def late(scene: Scene) -> web.StreamResponse:
    """`late:0.3`: the sound answer after so many seconds."""
    try:
        await asyncio.wait_for(scene.ended.wait(), float(scene.argument))
    except TimeoutError:
        return scene.sound.response()
    return _reset(scene.request)


async def drip(scene: Scene) -> web.StreamResponse:
    """The sound answer, a byte each 0.1 s."""
    body = scene.sound.body
    answer = web.StreamResponse(status=scene.sound.status, headers=dict(scene.sound.headers))
    answer.content_type, answer.content_length = "application/json", len(body)
    try:
        await answer.prepare(scene.request)
        for byte in body:
            if scene.ended.is_set():
                break
            await answer.write(bytes([byte]))
            await asyncio.sleep(0.1)
    except ConnectionError:
        pass  # the caller has had enough
    return _reset(scene.request)


async def reset(scene: Scene) -> web.StreamResponse:
    """RST before any answer."""
    return _reset(scene.request)


async def reset_in_headers(scene: Scene) -> web.StreamResponse:
    await _flushed(scene.request, b"HTTP/1.1 200 Sound\r\nContent-Ty")
    return _reset(scene.request)


async def reset_in_body(scene: Scene) -> web.StreamResponse:
    body = scene.sound.body
    await _flushed(scene.request, _head(scene.sound, len(body)) + body[: len(body) // 2])
    return _reset(scene.request)


async def half_close(scene: Scene) -> web.StreamResponse:
    """An orderly end (FIN) in the middle of the body."""
    body = scene.sound.body
    await _flushed(scene.request, _head(scene.sound, len(body)) + body[: len(body) // 2])
    if scene.request.transport is not None:
        scene.request.transport.close()
    return _Gone()


async def not_http(scene: Scene) -> web.StreamResponse:
    await _flushed(scene.request, b"SSH-2.0-OpenSSH_9.2\r\n\x00\x01\x02\r\n\r\n")
    if scene.request.transport is not None:
        scene.request.transport.close()
    return _Gone()


# ── the size ─────────────────────────────────────────────────────────────────────────────────────────────────


async def _pour(scene: Scene, pieces: Callable[[], Any], **headers: str) -> web.StreamResponse:
    answer = web.StreamResponse(status=scene.sound.status, headers={**scene.sound.headers, **headers})
    answer.content_type = "application/json"
    try:
        await answer.prepare(scene.request)
        for piece in pieces():
            await answer.write(piece)
        await answer.write_eof()
    except ConnectionError:
        return _Gone()
    return answer


async def flood(scene: Scene) -> web.StreamResponse:
    """100 MB of valid JSON without a stated length: one text that does not end."""
    piece = b"x" * _PIECE
    return await _pour(scene, lambda: [b'{"result":"', *([piece] * (FLOOD // _PIECE)), b'"}'])


async def gzip_bomb(scene: Scene) -> web.StreamResponse:
    """200 MB of blanks in some 200 kB, whatever encoding was accepted."""
    # Members of a gzip file may follow each other: one of 1 MB, repeated, costs this process next to nothing.
    member = gzip.compress(b" " * 1_000_000)
    return await _pour(scene, lambda: [member] * (BOMB // 1_000_000), **{"Content-Encoding": "gzip"})


async def million(scene: Scene) -> web.StreamResponse:
    """10^6 tiny offers."""
    pieces = [b'{"phase":"OFFERED"},' * 1000] * (MILLION // 1000)
    return await _pour(scene, lambda: [b'{"result":"YES","offers":[', *pieces, b"{}]}"])


# ── the words ────────────────────────────────────────────────────────────────────────────────────────────────


async def garbage(scene: Scene) -> web.StreamResponse:
    return _respond(scene.sound, b'{"result": "YES", "offers": [{]]} <html>\x00')


async def not_an_object(scene: Scene) -> web.StreamResponse:
    return _respond(scene.sound, b'["YES"]')


async def empty(scene: Scene) -> web.StreamResponse:
    """200 and nothing."""
    return web.Response(status=200, headers=dict(scene.sound.headers))


async def see_other(scene: Scene) -> web.StreamResponse:
    """303 with its Location and no body."""
    return web.Response(status=303, headers=dict(scene.sound.headers))


async def ok(scene: Scene) -> web.StreamResponse:
    """200 in place of 303."""
    return web.Response(status=200, body=scene.sound.body, headers={"Content-Type": "application/json"})


async def bad_utf8(scene: Scene) -> web.StreamResponse:
    return _respond(scene.sound, scene.sound.body.replace(b'"name":"', b'"name":"\xff\xfe', 1))


async def nan(scene: Scene) -> web.StreamResponse:
    body = scene.sound.body
    return _respond(scene.sound, body[:-1] + b',"price":NaN}')


async def deep(scene: Scene) -> web.StreamResponse:
    """Nested 200,000 deep."""
    return _respond(scene.sound, b'{"result":"YES","offers":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


async def wrong_type(scene: Scene) -> web.StreamResponse:
    return _respond(scene.sound, b"<html><body><h1>Welcome</h1></body></html>", **{"Content-Type": "text/html"})


async def redirect(scene: Scene) -> web.StreamResponse:
    """`redirect:http://elsewhere/`: 307 there, which asks to send the same body again."""
    return web.Response(status=307, headers={"Location": scene.argument})


async def elsewhere(scene: Scene) -> web.StreamResponse:
    """`elsewhere:http://elsewhere/x`: 303 without a body, the Location at another origin."""
    return web.Response(status=303, headers={"Location": scene.argument})


async def status(scene: Scene) -> web.StreamResponse:
    """`status:500`, or `status:503:7` with `Retry-After: 7`; as a proxy in between would say it, in Spring's words."""
    code, _, after = scene.argument.partition(":")
    headers = {"Content-Type": "application/json", **({"Retry-After": after} if after else {})}
    document = {"timestamp": "2026-11-22T12:00:00.000+00:00", "status": int(code), "error": "scripted", "path": "/"}
    return web.Response(status=int(code), body=msgspec.json.encode(document), headers=headers)


async def phase(scene: Scene) -> web.StreamResponse:
    """`phase:RUNNING`: the sound answer with that phase in it (of every offer, where there are offers)."""
    document = dict(scene.sound.document or {})
    if "offers" in document:
        document["offers"] = [{**offer, "phase": scene.argument} for offer in document["offers"]]
    else:
        document["phase"] = scene.argument
    return _respond(scene.sound, msgspec.json.encode(document))


async def uuid(scene: Scene) -> web.StreamResponse:
    """`uuid:…`: every session carries that uuid, another's perhaps."""
    document = dict(scene.sound.document or {})
    if "offers" in document:
        document["offers"] = [_renamed(offer, scene.argument) for offer in document["offers"]]
    else:
        document = _renamed(document, scene.argument)
    return _respond(scene.sound, msgspec.json.encode(document))


def _renamed(session: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**session, "meta": {**session.get("meta", {}), "uuid": name}}


def scripted(script: str) -> tuple[bool, str, str]:
    """Of what a test asks for: `after:status:500` → (True, "status", "500")."""
    rest = script.removeprefix("after:")
    name, _, argument = rest.partition(":")
    return rest != script, name, argument


FAULTS: Mapping[str, Fault] = {
    "hang": hang,
    "late": late,
    "drip": drip,
    "reset": reset,
    "reset-in-headers": reset_in_headers,
    "reset-in-body": reset_in_body,
    "half-close": half_close,
    "not-http": not_http,
    "flood": flood,
    "gzip-bomb": gzip_bomb,
    "million": million,
    "garbage": garbage,
    "not-an-object": not_an_object,
    "empty": empty,
    "see-other": see_other,
    "ok": ok,
    "bad-utf8": bad_utf8,
    "nan": nan,
    "deep": deep,
    "wrong-type": wrong_type,
    "redirect": redirect,
    "elsewhere": elsewhere,
    "status": status,
    "phase": phase,
    "uuid": uuid,
}
