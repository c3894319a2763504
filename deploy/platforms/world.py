"""The servers and brokers of the demonstration. Imports the demo's processes and the platforms' parts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from string import Template
from typing import Any

import sky
import yaml
from parts import Part
from processes import Processes, stop_all

HERE = Path(__file__).resolve().parent
REQUEST = "hubble.yaml"
GALAXIES = 20_000
RATE = 4_000_000  # bytes a second


class World:
    """`urls`: name → where it listens. Everything is written to `folder`."""

    def __init__(self, folder: Path, sites: Mapping[str, Part]) -> None:
        self._folder, self._sites = folder, sites
        self._processes = Processes(folder)
        self._servers = ExitStack()
        self.urls: dict[str, str] = {}

    def prepare(self) -> None:
        """An empty folder, and the data in it."""
        stop_all(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "archive").mkdir(parents=True)
        shutil.copy(HERE.parent / "demo" / "fit.py", self._folder / "fit.py")
        sky.write_catalogue(self._folder / "archive" / "galaxies.fits", GALAXIES)

    def start(self) -> None:
        """The data, then the platforms, then the brokers. Raises DemoError."""
        sky_at = str(HERE.parent / "demo" / "sky.py")
        self._processes.python("data", sky_at, "serve", str(self._folder / "archive"), str(RATE))
        self.urls["data"] = self._processes.said("data")
        request = Template((HERE / "configs" / REQUEST).read_text())
        (self._folder / REQUEST).write_text(request.substitute(self.urls))
        with ThreadPoolExecutor(len(self._sites)) as side_by_side:
            given = dict(zip(self._sites, side_by_side.map(self._start, self._sites), strict=True))
        for name in self._sites:
            self._serve(name, self._site(name, given[name]))
        for name in self._sites:
            self.urls[name] = self._processes.said(name)
        self._serve("federation", self._above())
        self.urls["federation"] = self._processes.said("federation")

    def stop(self) -> None:
        self._processes.stop()
        self._servers.close()

    def _start(self, name: str) -> Mapping[str, Any]:
        """The platform's server, which ends with ours."""
        place = self._folder / "platforms" / name
        place.mkdir(parents=True)
        server = self._sites[name].start(place)
        given = server.__enter__()
        self._servers.push(server)
        return given

    def _site(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """A site broker's settings: the platform's own, and what makes offers of it."""
        capacity = {"cores": 64, "memory": 64, "storage": 1000}
        return {"name": name, "tariff": "free", "capacity": capacity, "policies": {"quotas": {"offers": 200}}, **given}

    def _above(self) -> dict[str, Any]:
        """The federation's settings. The data lies at the first site; the others bring it in."""
        first = {"name": "archive", "prefixes": [self.urls["data"]]}
        sites = {
            name: {"url": self.urls[name], "poll": 0.5, "storages": [{"name": f"{name}-disk"} if place else first]}
            for place, name in enumerate(self._sites)
        }
        return {"name": "radio-net", "sites": sites, "links": [{"source": "*", "target": "*", "bandwidth": RATE}]}

    def _serve(self, name: str, settings: Mapping[str, Any]) -> None:
        common = {"listen": "127.0.0.1:0", "store": f"{name}.db", "access": {"anonymous": "loopback"}}
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**common, **settings}, sort_keys=False))
        self._processes.python(name, "-m", "broker.cli.main", "serve", str(file))
