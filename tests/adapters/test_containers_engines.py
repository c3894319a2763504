"""The contracts, on real engines: Podman and Docker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from adapters.planning.contract import PlatformContract, Stage
from broker.testing.container_engines import Engine, docker, podman
from broker.testing.planner_contract import PlannerContract, Stand
from tests.adapters.container_sites import ANSWER, CLOCK, LASTING, WARP, program, sites, want_engine


@pytest.fixture(scope="module")
def podman_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    want_engine("podman")
    with podman(tmp_path_factory.mktemp("podman")) as engine:
        yield engine


@pytest.fixture(scope="module")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    want_engine("docker")
    with docker(tmp_path_factory.mktemp("docker")) as engine:
        yield engine


class Platforms(PlatformContract):
    @pytest.fixture
    async def stage(self, engine: Engine) -> AsyncIterator[Stage]:
        async with sites(engine) as here:
            stage = here.stage(program(ANSWER), LASTING)
            yield replace(stage, failing=program("exit(3)"), beyond={"executable": WARP}, text=b"42")


class TestPodman(Platforms):
    @pytest.fixture
    def engine(self, podman_engine: Engine) -> Engine:
        return podman_engine


@pytest.mark.faults
class TestDocker(Platforms):
    @pytest.fixture
    def engine(self, docker_engine: Engine) -> Engine:
        return docker_engine


class TestPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, podman_engine: Engine) -> AsyncIterator[Stand]:
        async with sites(podman_engine) as here:
            yield Stand(here.planner, CLOCK, program(ANSWER), LASTING, {"executable": WARP}, ran=here.ran)
