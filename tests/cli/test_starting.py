"""A settings file is begun, tried without a job, and never overwritten; the shell completes the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.settings import load_settings


def left(home: Path) -> list[str]:
    """What lies in the working folder beside the home and the memory."""
    return sorted(path.name for path in home.iterdir() if path.name not in ("state", "home"))


@pytest.mark.parametrize(
    "arguments",
    [("federation",), ("site", "--kind", "local"), ("site", "--kind", "simulated")],
    ids=["federation", "local", "simulated"],
)
async def test_what_is_begun_starts_without_a_warning(run: Any, home: Path, arguments: tuple[str, ...]) -> None:
    what, *more = arguments
    ran = await run("init", what, "delta.yaml", *more)
    assert (ran.code, ran.out, ran.err) == (
        0, "", "Wrote delta.yaml. Next: broker check-config delta.yaml --try\n",
    )  # fmt: skip
    assert load_settings(home / "delta.yaml").name == "delta"
    checked = await run("check-config", "delta.yaml")
    assert checked.code == 0
    assert [line for line in checked.out.splitlines() if not line.startswith("ok ")] == []
    assert left(home) == ["delta.yaml"]


async def test_without_a_file_it_is_printed(run: Any, home: Path) -> None:
    ran = await run("init", "site", "--kind", "local", "--name", "delta")
    (home / "site.yaml").write_text(ran.out)
    settings = load_settings(home / "site.yaml")
    assert (settings.name, settings.tariff) == ("delta", "free")
    assert all(len(line) <= 120 for line in ran.out.splitlines())


async def test_a_file_is_never_overwritten(run: Any, home: Path) -> None:
    (home / "delta.yaml").write_text("mine")
    ran = await run("init", "federation", "delta.yaml")
    assert (ran.code, ran.err) == (2, "delta.yaml is there already, and is left as it is. Name another file.\n")
    assert (home / "delta.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("site", "x.yaml"), "a site's kind is wanted. There are: arc, "),
        (("site", "x.yaml", "--kind", "abacus"), '"abacus" is no platform. There are: arc, '),
        (("federation", "x.yaml", "--kind", "local"), "--kind is for a site. Only a site has a kind."),
        (("federation", "x.yaml", "--name", "My Net"), "--name: small letters, digits, dots and dashes are wanted."),
        (("federation", "nowhere/x.yaml"), "nowhere is no folder."),
    ],
)
async def test_a_slip_writes_nothing(run: Any, home: Path, arguments: tuple[str, ...], line: str) -> None:
    ran = await run("init", *arguments)
    assert ran.code == 2
    assert line in ran.err
    assert left(home) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listen: 127.0.0.1:99999", "listen: a port is a number from 0 to 65535"),
        ("platform: {kind: local, foldr: jobs}", "platform.foldr: no such key. Nearest: folder. Allowed: "),
        ("platform: {kind: local}", "platform.folder: is missing."),
        ("platform: {kind: local, folder: }", "platform.folder: is empty: a path is wanted."),
        (
            "platform: {kind: local, folder: jobs, file_roots: /srv}",
            "platform.file_roots: a list is wanted. Write it in brackets, with commas between: [a, b].",
        ),
        (
            "platform: {kind: containers, program: {image: a, version: 3.12}}",
            "platform.program.version: a text is wanted. Write it in quotes.",
        ),
        (
            "platform: {kind: containers, program: python}",
            "platform.program: keys with values are wanted. There are: image, ",
        ),
        (
            "platform: {kind: slurm, folder: /a, user: u, token_command: [t]}",
            "platform.token_command: no such key. It belongs below token.",
        ),
        ("platform: {kind: wes}", "platform.url: the address of the site is missing. Write url: https://"),
        (
            "platform: {kind: local, folder: jobs, credentials: key}",
            "platform.credentials: 'key' is not under credentials; there are: none",
        ),
    ],
)
async def test_a_wrong_setting_is_one_line(run: Any, home: Path, text: str, line: str) -> None:
    (home / "x.yaml").write_text(f"name: x\n{text}\n")
    ran = await run("check-config", "x.yaml")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ran.err.startswith(f"x.yaml {line}")


async def test_no_file_is_one_line(run: Any) -> None:
    ran = await run("check-config", "x.yaml")
    assert (ran.code, ran.err) == (2, "x.yaml: cannot be read: No such file or directory.\n")


async def test_trying_shows_an_offer_and_leaves_nothing(run: Any, home: Path) -> None:
    await run("init", "site", "delta.yaml", "--kind", "local")
    ran = await run("check-config", "delta.yaml", "--try")
    assert ran.code == 0
    assert re.search(
        r"^try   python-program, 1 core, 1 GiB, 10 min: would offer \d\d:\d\dZ \(reserved\), free$", ran.out, re.M
    )
    assert "NO    docker-container, singularity-container, workflow: this platform runs none" in ran.out
    assert "No job was submitted, nothing is reserved." in ran.out
    assert left(home) == ["delta.yaml"]


async def test_trying_names_the_price_the_queue_and_the_no(run: Any, home: Path) -> None:
    await run("init", "site", "delta.yaml", "--kind", "simulated")
    text = (home / "delta.yaml").read_text()
    priced = text.replace("tariff: free", "tariff: {currency: EUR, core_hour: 0.3}")
    (home / "delta.yaml").write_text(priced.replace("run: PT10S", "queue: PT1H"))
    assert re.search(
        r"would offer ~\d\d:\d\dZ \(estimate\), 0.05 EUR$", (await run("check-config", "delta.yaml", "--try")).out, re.M
    )
    (home / "delta.yaml").write_text(re.sub(r"^tariff: free.*$", "", text, flags=re.M))
    assert "price unknown: no tariff" in (await run("check-config", "delta.yaml", "--try")).out
    (home / "delta.yaml").write_text(text + "policies: {ceilings: {duration: PT1M}}\n")
    assert (
        "NO    python-program, 1 core, 1 GiB, 10 min: schedule.requested.duration"
        in (await run("check-config", "delta.yaml", "--try")).out
    )


async def test_trying_a_federation_tells_who_does_not_answer(run: Any, home: Path, unused_tcp_port: int) -> None:
    (home / "net.yaml").write_text(
        f"name: net\naccess: {{anonymous: loopback}}\nsites:\n  alba: {{url: 'http://127.0.0.1:{unused_tcp_port}'}}\n"
    )
    ran = await run("check-config", "net.yaml", "--try")
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("warn  sites.alba: ")


async def test_trying_asks_each_catalogue_and_tells_which_does_not_answer(
    run: Any, home: Path, unused_tcp_port: int
) -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", nothing)
    server = TestServer(app)
    await server.start_server()
    text = "name: net\naccess: {anonymous: loopback}\ncredentials: {ska: {token: s3cr3t}}\ncatalogues:\n"
    for state, url in (("there", server.make_url("/")), ("gone", f"http://127.0.0.1:{unused_tcp_port}/")):
        text += f"  rucio-{state}: {{kind: rucio, url: '{url}', credentials: ska}}\n"
        text += f"  links-{state}: {{kind: datalink, url: '{url}'}}\n"
        text += f"  tap-{state}: {{kind: tap, url: '{url}'}}\n"
        text += f"  s3-{state}: {{kind: s3, url: '{url}', options: {{buckets: [survey]}}}}\n"
    (home / "net.yaml").write_text(text)
    ran = await run("check-config", "net.yaml", "--try")
    await server.close()
    tried = dict(line.split(": ", 1) for line in ran.out.splitlines() if " catalogues." in line)
    for kind in ("rucio", "links", "tap", "s3"):
        assert "no connection" in tried[f"warn  catalogues.{kind}-gone"]
        answered = tried.get(f"ok    catalogues.{kind}-there", "") + tried.get(f"warn  catalogues.{kind}-there", "")
        assert "404" in answered
    assert "has no survey/check-config" in tried["ok    catalogues.s3-there"]


# ── completion ───────────────────────────────────────────────────────────────────────────────────────────────


def completed(shell: str, **variables: str) -> str:
    environment = {**os.environ, "_BROKER_COMPLETE": f"complete_{shell}", **variables}
    command = [sys.executable, "-m", "broker.cli.main"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


@pytest.mark.parametrize(("words", "offered"), [("broker sub", "submit"), ("broker submit --pref", "--prefer")])
def test_the_shell_completes_commands_and_options(words: str, offered: str) -> None:
    assert offered in completed("bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))).split()
    assert offered in completed("zsh", _TYPER_COMPLETE_ARGS=words)


def test_the_shell_completes_presets() -> None:
    words = "broker submit fit.py --prefer f"
    assert completed("bash", COMP_WORDS=words, COMP_CWORD="4").split() == ["fastest"]


async def test_trying_names_the_address_that_is_wrong_and_the_size_that_is_missing(
    run: Any, home: Path, tmp_path: Path
) -> None:
    socket = f"unix://{tmp_path}/none.sock"
    (home / "x.yaml").write_text(f"name: x\nplatform: {{kind: containers, url: {socket!r}}}\ntariff: free\n")
    said = (await run("check-config", "x.yaml", "--try")).out
    assert "NO    platform: the container engine: no connection (No such file or directory)." in said
    assert "Is it running, and platform.url right?" in said
    (home / "y.yaml").write_text("name: y\nplatform: {kind: simulated}\ntariff: free\n")
    assert "capacity" not in (await run("check-config", "y.yaml", "--try")).out


async def test_trying_doubts_an_address_that_does_not_say_what_it_is(run: Any, home: Path) -> None:
    async with TestServer(web.Application()) as server:
        site = f"{{url: {str(server.make_url('/'))!r}}}"
        (home / "net.yaml").write_text(f"name: net\naccess: {{anonymous: loopback}}\nsites:\n  gone: {site}\n")
        said = (await run("check-config", "net.yaml", "--try")).out
    assert "warn  sites.gone: answers, and does not say what it is. Is url right? Run: broker check http" in said
