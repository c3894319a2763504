"""Images that are pulled: by Podman, from a real registry on the loopback, open and private."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.ports import Sighting
from broker.testing.container_engines import Engine, Podman, write_root
from broker.testing.container_registry import LOGIN, Registry, registry
from tests.adapters.container_sites import Sites, container, sites, want_engine
from tests.conftest import want

NONE = "sha256:" + "0" * 64


class Shops(NamedTuple):
    engine: Engine
    open: Registry
    private: Registry


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    want_engine("podman")
    want("docker-registry", "docker-registry")
    folder = tmp_path_factory.mktemp("shops")
    engine = Podman(folder / "podman")
    with registry(folder / "open") as open_, registry(folder / "private", private=True) as private:
        try:
            engine.start()
            write_root(folder / "root.tar", python=False)
            for host, login in ((open_.host, None), (private.host, LOGIN)):
                engine.import_image(folder / "root.tar", f"{host}/team/box")
                engine.push(f"{host}/team/box", login)
            yield Shops(engine, open_, private)
        finally:
            engine.stop()


@pytest.fixture
async def here(shops: Shops) -> AsyncIterator[Sites]:
    async with sites(shops.engine, images=[shops.open.host, shops.private.host]) as here:
        yield here


async def run(here: Sites, *locations: str, digest: str | None = None, **options: Any) -> tuple[Sighting, set[str]]:
    """How it ended, and all that was told on the way."""
    request = container("true")
    request["executable"]["image"] = {"locations": locations} | ({"digest": digest} if digest else {})
    for made in here.engine.call("GET", "/images/json")[1]:
        here.engine.call("DELETE", f"/images/{made['Id']}?force=true")
    stage = here.stage(request, request, **options)
    job, told = await stage.started(request), set[str]()
    seen = await stage.look(job)
    while seen.phase == "PREPARING":
        told |= set(seen.messages)
        seen = await stage.look(job)
    return await stage.ended(job), told


@pytest.mark.parametrize("policy", ["missing", "always"])
async def test_an_image_is_pulled_by_its_tag(here: Sites, shops: Shops, policy: str) -> None:
    seen, _ = await run(here, f"{shops.open.host}/team/box:latest", pull=policy)
    assert seen.phase == "COMPLETED", seen


async def test_an_image_is_pulled_by_its_digest(here: Sites, shops: Shops) -> None:
    seen, _ = await run(here, f"{shops.open.host}/team/box:no-such-tag", digest=shops.open.digest("team/box"))
    assert seen.phase == "COMPLETED", seen


async def test_an_image_with_another_digest_never_runs(here: Sites, shops: Shops) -> None:
    seen, _ = await run(here, f"{shops.open.host}/team/box:latest", digest=NONE)
    assert seen.phase == "FAILED"
    assert f"{shops.open.host}/team/box@{NONE} cannot be pulled" in seen.messages[0]
    assert seen.began is None


async def test_the_next_location_is_tried_where_one_has_it_not(here: Sites, shops: Shops) -> None:
    seen, _ = await run(here, f"{shops.open.host}/team/none", f"{shops.open.host}/team/box")
    assert seen.phase == "COMPLETED", seen
    failed, _ = await run(here, f"{shops.open.host}/team/none", f"{shops.open.host}/team/no")
    assert failed.phase == "FAILED"
    assert failed.messages[0].count("cannot be pulled") == 2


@pytest.mark.parametrize(("password", "phase"), [(LOGIN[1], "COMPLETED"), ("wrong", "FAILED"), (None, "FAILED")])
async def test_a_private_registry_wants_to_know_who_we_are(
    here: Sites, shops: Shops, tmp_path: Path, password: str | None, phase: str
) -> None:
    (tmp_path / "password").write_text(f"{password}\n")
    entry = {"prefix": f"{shops.private.host}/team", "username": LOGIN[0], "password_file": tmp_path / "password"}
    seen, told = await run(here, f"{shops.private.host}/team/box", registries=[entry] if password else [])
    assert seen.phase == phase, seen
    assert phase == "COMPLETED" or "cannot be pulled" in seen.messages[0]
    assert not any(LOGIN[1] in text for text in (*told, *seen.messages))


async def test_what_is_sent_to_one_registry_is_not_sent_to_another(here: Sites, shops: Shops, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(LOGIN[1])
    entry = {"prefix": f"{shops.private.host}/other", "username": LOGIN[0], "password_file": tmp_path / "password"}
    seen, _ = await run(here, f"{shops.private.host}/team/box", registries=[entry])
    assert seen.phase == "FAILED"
