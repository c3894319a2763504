"""The courier of results beside places that lie, dawdle, break off, lead elsewhere, and want to know its secrets."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from adapters.local import delivering
from adapters.local.delivering import LARGEST_S3, Courier, Credentials, DeliveryError, deliver
from adapters.local.layout import RESULTS, Bounds, Delivery, Spec, write_json
from adapters.local.outputs import MOST_FILES

BODY = b"x" * 3_000_000  # more than sockets hold on the way
SUM = hashlib.sha256(BODY).hexdigest()
Handler = Callable[[socket.socket, bytes], None]  # of one connection, after the head of its first request


class Place:
    """Takes connections one after another; `heads`: what was asked. The last handler serves all that come."""

    def __init__(self, *handlers: Handler, host: str = "127.0.0.1") -> None:
        self._handlers = list(handlers)
        self._listener = socket.create_server((host, 0))
        self._connection: socket.socket | None = None
        self._over = False
        self.heads: list[bytes] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Place:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._connection is not None:
            with suppress(OSError):  # it has ended by itself
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            with self._connection as connection:
                if self._over:
                    return
                handler = self._handlers.pop(0) if len(self._handlers) > 1 else self._handlers[0]
                try:
                    self._hear(connection, handler)
                except OSError:
                    continue

    def _hear(self, connection: socket.socket, handler: Handler) -> None:
        connection.settimeout(10)
        while head := _head(connection):
            self.heads.append(head)
            handler(connection, head)


def _head(connection: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        text += byte
    return text


def _swallow(connection: socket.socket) -> None:
    left = len(BODY)
    while left and (piece := connection.recv(min(left, 1 << 16))):
        left -= len(piece)


def _until_closed(connection: socket.socket) -> None:
    """Reads nothing, and waits until the other side has gone."""
    watch = select.poll()
    watch.register(connection, select.POLLRDHUP)
    watch.poll(10_000)


def says(status: str, *headers: str) -> Handler:
    """Takes the body of a PUT, and answers."""

    def handle(connection: socket.socket, head: bytes) -> None:
        if head.startswith(b"PUT"):
            _swallow(connection)
        text = "\r\n".join([f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""])
        connection.sendall(text.encode())

    return handle


def takes(connection: socket.socket, head: bytes) -> None:
    """As a store does, which says on HEAD how much it has."""
    if head.startswith(b"PUT"):
        return says("201 Created")(connection, head)
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode())
    return None


def hangs_up(connection: socket.socket, head: bytes) -> None:
    connection.recv(100_000)
    connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "result"
    path.write_bytes(BODY)
    return path


@contextmanager
def courier(place: Place | str, **known: object) -> Iterator[tuple[Courier, list[float]]]:
    """Whose waits are written down and not waited."""
    target = place if isinstance(place, str) else f"{place.url}/r"
    within = float(str(known.pop("within", 60.0)))
    secrets = str(known.pop("credentials", ""))
    whole: dict[str, object] = {"to": target, "target": target, "kind": "http", "within": within, "kept": 0.0, **known}
    waits: list[float] = []
    one = Courier(Delivery(**whole), time.monotonic() + within, Credentials(secrets), waits.append)  # type: ignore[arg-type]  # by name
    try:
        yield one, waits
    finally:
        one.close()


def bring(one: Courier, file: Path, name: str = "a.txt") -> None:
    one.bring(name, len(BODY), SUM, lambda: os.open(file, os.O_RDONLY))


def refused(place: Place | str, file: Path, **known: object) -> tuple[str, list[float]]:
    """Why it could not be brought, and how long was waited between the tries."""
    with courier(place, **known) as (one, waits), pytest.raises(DeliveryError) as caught:
        bring(one, file)
    return str(caught.value), waits


# ── what passes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_several_files_go_over_one_connection(file: Path) -> None:
    with Place(takes, says("500 A second connection")) as place, courier(place) as (one, waits):
        bring(one, file)
        bring(one, file, "b.txt")
    assert [head.split()[:2] for head in place.heads] == [
        [b"PUT", b"/r/a.txt"], [b"HEAD", b"/r/a.txt"], [b"PUT", b"/r/b.txt"], [b"HEAD", b"/r/b.txt"],
    ]  # fmt: skip
    assert waits == []


@pytest.mark.parametrize(
    "first", [hangs_up, says("503 Busy"), says("429 Too Many"), says("502 Oh", "Connection: close")]
)
def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(file: Path, first: Handler) -> None:
    def once(connection: socket.socket, head: bytes) -> None:
        first(connection, head)
        raise OSError  # and the connection with it

    with Place(once, once, takes) as place, courier(place) as (one, waits):
        bring(one, file)
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "403 Forbidden", "501 Not Implemented"])
def test_a_place_that_does_not_let_us_look_is_believed(file: Path, status: str) -> None:
    def blind(connection: socket.socket, head: bytes) -> None:
        says("204 No Content" if head.startswith(b"PUT") else status)(connection, head)

    with Place(blind) as place, courier(place) as (one, _):
        bring(one, file)


def test_a_redirect_on_the_same_host_is_followed_with_the_body(file: Path) -> None:
    def leads(connection: socket.socket, head: bytes) -> None:
        if head.startswith(b"PUT /r/"):
            return says("307 Temporary Redirect", "Location: /pool/a.txt")(connection, head)
        return takes(connection, head)

    with Place(leads) as place, courier(place) as (one, _):
        bring(one, file)
    assert [head.split()[1] for head in place.heads] == [b"/r/a.txt", b"/pool/a.txt", b"/r/a.txt"]


@pytest.mark.parametrize("length", ["Content-Length: 9", "Transfer-Encoding: chunked"])
def test_what_a_place_says_with_its_yes_is_not_taken_for_the_next_answer(file: Path, length: str) -> None:
    """As Apache, whose 201 has a page."""

    def talks(connection: socket.socket, head: bytes) -> None:
        if head.startswith(b"HEAD"):
            return takes(connection, head)
        _swallow(connection)
        connection.sendall(f"HTTP/1.1 201 Created\r\n{length}\r\n\r\n".encode())
        select.select([connection], [], [], 0.2)  # who does not wait for the rest asks the next question now
        with suppress(OSError):
            connection.sendall(b"<created>" if "9" in length else b"9\r\n<created>\r\n0\r\n\r\n")
        return None

    with Place(talks) as place, courier(place) as (one, waits):
        bring(one, file)
        bring(one, file, "b.txt")
    assert waits == []


# ── what does not ────────────────────────────────────────────────────────────────────────────────────────────


def lies(stated: str) -> Handler:
    def handle(connection: socket.socket, head: bytes) -> None:
        if head.startswith(b"PUT"):
            return says("200 OK")(connection, head)
        connection.sendall(f"HTTP/1.1 {stated}\r\nContent-Length: 7\r\n\r\n".encode())
        return None

    return handle


@pytest.mark.parametrize(("stated", "what"), [("404 Not Found", "has it not"), ("200 OK", "has 7 of 3000000 bytes")])
def test_who_says_yes_and_has_it_not_is_not_believed(file: Path, stated: str, what: str) -> None:
    with Place(lies(stated)) as place:
        why, waits = refused(place, file, within=2.0)
    assert why.endswith(f"took a.txt, and {what}. The time for it is up.")
    assert waits[:1] == [1.0]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/r/a.txt",
        "https://127.0.0.1/",
        "//evil.example.org/a",
        "/r/a.txt?sig=1",
        "file:///x",
        "http://[::1",
        "/é",
        "/a b",
        "/a\x01b",
    ],
)
def test_a_redirect_to_another_place_is_not_followed(file: Path, location: str) -> None:
    with Place(says("307 Temporary Redirect", f"Location: {location}")) as place:
        why, waits = refused(place, file)
    assert "redirects to another place" in why
    assert (len(place.heads), waits) == (1, [])


def test_a_length_that_is_none_is_no_length(file: Path) -> None:
    def odd(connection: socket.socket, head: bytes) -> None:
        says("204 No Content")(connection, head) if head.startswith(b"PUT") else connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n"
        )

    with Place(odd) as place, courier(place) as (one, waits):
        bring(one, file)
    assert waits == []


def test_a_circle_of_redirects_comes_to_an_end(file: Path) -> None:
    with Place(says("307 Temporary Redirect", "Location: /r/a.txt")) as place:
        assert "redirects without end" in refused(place, file)[0]
    assert len(place.heads) == 5


def test_who_refuses_before_all_has_come_is_heard(file: Path) -> None:
    def early(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        _until_closed(connection)
        raise OSError

    with Place(early) as place:
        why, waits = refused(place, file)
    assert "answers 413 Content Too Large" in why
    assert (len(place.heads), waits) == (1, [])


def test_who_takes_nothing_is_left_when_the_time_is_up(file: Path) -> None:
    def stalls(connection: socket.socket, head: bytes) -> None:
        _until_closed(connection)
        raise OSError

    with Place(stalls) as place:
        assert refused(place, file, within=0.5)[0].endswith("cannot be written to: timed out. The time for it is up.")


def test_and_so_is_who_takes_it_too_slowly(file: Path) -> None:
    def drips(connection: socket.socket, head: bytes) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while connection.recv(50_000):
            time.sleep(0.05)

    with Place(drips) as place:
        assert "time for it is up" in refused(place, file, within=0.5)[0]


@pytest.mark.parametrize("answer", [b"\x00\xff" * 100, b"HTTP/1.1 99999 x\r\n\r\n", b"HTTP/1.1 " + b"9" * 70_000, b""])
def test_what_is_no_http_is_no_success(file: Path, answer: bytes) -> None:
    def babbles(connection: socket.socket, head: bytes) -> None:
        _swallow(connection)
        connection.sendall(answer)
        raise OSError

    with Place(babbles) as place:
        assert "cannot be written to" in refused(place, file, within=0.9)[0]


def test_what_a_place_says_is_shown_in_bounds_and_without_control_characters(file: Path) -> None:
    with Place(says("403 " + "\x1b[31m" + "n" * 5000)) as place:
        why, _ = refused(place, file)
    assert "\x1b" not in why
    assert len(why) < 300


def test_a_file_that_has_become_shorter_is_not_passed_on_as_whole(file: Path) -> None:
    file.write_bytes(BODY[:-1])
    with Place(takes) as place:
        assert "has changed" in refused(place, file)[0]


# ── secrets and addresses ────────────────────────────────────────────────────────────────────────────────────


def secrets(tmp_path: Path, text: str) -> str:
    path = tmp_path / "secrets"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("[default]\ntoken = s3cr3t%\n", b"Authorization: Bearer s3cr3t%"),
        ("[default]\nusername = ada\npassword = x:y\n", b"Authorization: Basic YWRhOng6eQ=="),
    ],
)
def test_the_sites_credentials_go_to_the_place(tmp_path: Path, file: Path, text: str, header: bytes) -> None:
    with Place(takes) as place, courier(place, credentials=secrets(tmp_path, text)) as (one, _):
        bring(one, file)
    assert all(header in head for head in place.heads)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "s3cr3t",
        "[other]\ntoken = s3cr3t",
        "[default]\ntoken s3cr3t",
        "[default]\ntoken = s3cr3t\n more",
        "\x00",
    ],
)
def test_credentials_that_cannot_be_read_are_not_shown(tmp_path: Path, text: str | None) -> None:
    path = secrets(tmp_path, text) if text is not None else str(tmp_path / "none")
    with pytest.raises(DeliveryError, match="credentials") as caught:
        Credentials(path)
    assert "s3cr3t" not in str(caught.value)


def test_a_host_that_a_user_names_is_not_written_to_at_an_address_of_our_own(file: Path) -> None:
    with Place(takes) as place:
        why, waits = refused(place, file, public=True)
    assert "is at no public address" in why
    assert (place.heads, waits) == ([], [])


@pytest.mark.parametrize(
    "host",
    [
        "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "[2002:7f00:1::]", "[64:ff9b::a9fe:a9fe]",
        "[fec0::1]", "[::7f00:1]", "2130706433", "192.0.0.192",
    ],
)  # fmt: skip
def test_nor_by_any_other_way_to_write_one(file: Path, host: str) -> None:
    assert "is at no public address" in refused(f"http://{host}:1/r", file, public=True)[0]


def test_nor_is_a_name_that_no_machine_can_have(file: Path) -> None:
    assert "is at no public address" in refused(f"http://{'a' * 64}.example/r", file, public=True)[0]


def test_of_a_names_addresses_the_one_that_answers_is_written_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a host that has an IPv6 address too, where this machine has none. 127.0.0.2 and 127.0.0.3 stand for
    public ones; at 127.0.0.1 is what may not be reached, whatever the name says."""
    with Place(takes) as ours, Place(takes, host="127.0.0.3") as theirs, socket.socket() as nobody:
        nobody.bind(("127.0.0.2", 0))  # and does not listen
        places = [("127.0.0.1", ours.port), nobody.getsockname(), ("127.0.0.3", theirs.port)]
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
        monkeypatch.setattr(delivering, "public", lambda address: address != "127.0.0.1")
        with courier("http://store.example/r", public=True) as (one, waits):
            bring(one, file)
    assert (len(ours.heads), len(theirs.heads), waits) == (0, 2, [])


# ── what is not even begun ───────────────────────────────────────────────────────────────────────────────────


def spec() -> Spec:
    return Spec("0", "program", Bounds(1, 1, 1.0, 1, 1, 1, 1, 1, 1.0, 1.0, 0), "python", {})


def listed(count: int = 1, size: int = 1) -> list[dict[str, object]]:
    return [{"name": f"{i}", "bytes": size, "checksum": f"sha256:{SUM}"} for i in range(count)]


@pytest.mark.parametrize(
    ("files", "kind", "what"),
    [
        (listed(size=LARGEST_S3 + 1), "s3", "is larger than 5368709120 bytes"),
        (listed(MOST_FILES), "http", "pack them"),
    ],
)
def test_what_cannot_arrive_whole_is_not_begun(tmp_path: Path, files: list[object], kind: str, what: str) -> None:
    write_json(tmp_path / RESULTS, files)
    with Place(takes) as place:
        delivery = Delivery(place.url, place.url, kind, 5.0, 0.0)
        with pytest.raises(DeliveryError, match=what):
            deliver(tmp_path, spec(), delivery)
    assert place.heads == []
