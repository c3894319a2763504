"""Clients that nobody here wrote: made by openapi-generator, in Python, from a description. And a world to call."""

from __future__ import annotations

import importlib
import importlib.resources
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.api.openapi import describe

MADE_WITHIN = 120.0  # seconds; one takes two of processor time
# The virtual machine lives for seconds: what makes it fast later only costs.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# Nothing but the package.
ASK = ("--global-property", "apis,models,supportingFiles,apiTests=false,modelTests=false,apiDocs=false,modelDocs=false")


class Making:
    """A generator at work. `package` waits for it, and imports what it wrote."""

    def __init__(self, folder: Path, name: str, description: bytes) -> None:
        self.folder, self._name = folder / name, name
        self.folder.mkdir()
        source = self.folder / "openapi.json"
        source.write_bytes(description)
        jar = importlib.resources.files("openapi_generator_cli") / "openapi-generator.jar"
        command = [
            "java", *QUICK, "-jar", str(jar), "generate", "--generator-name", "python", "--input-spec", str(source),
            "--output", str(self.folder), "--package-name", name, *ASK,
        ]  # fmt: skip
        self._log = self.folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def package(self) -> Any:
        code = self._process.wait(MADE_WITHIN)
        assert code == 0, self._log.read_text()[-2000:]
        sys.path.insert(0, str(self.folder))
        try:
            return importlib.import_module(self._name)
        finally:
            sys.path.remove(str(self.folder))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def makings(
    java: None, standard: dict[str, Any] | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Making]]:
    """Of each description that there is, side by side."""
    folder = tmp_path_factory.mktemp("clients")
    given = {"own": describe("0.0.0")}
    if standard is not None:
        given["standard"] = json.dumps(standard).encode()
    made = {name: Making(folder, f"client_of_{name}", description) for name, description in given.items()}
    yield made
    for making in made.values():
        making.stop()


@pytest.fixture(scope="session", params=["standard", "own"])
def client(request: pytest.FixtureRequest, makings: dict[str, Making]) -> Any:
    """The package that was made. From the standard's description where that is there; from ours everywhere."""
    if request.param not in makings:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    return makings[request.param].package()


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Asks again and again until what is told is something, and returns it."""

    def eventually_(asked: Callable[[], Any], patience: float = 60.0) -> Any:
        end = time.monotonic() + patience
        while not (told := asked()):
            assert time.monotonic() < end, "what we wait for does not come"
            time.sleep(0.05)
        return told

    return eventually_
