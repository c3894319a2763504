"""A Jupyter server for one person and one session: `python interactive.py SETTINGS`, in the working folder of the job.

Runs under the site's interpreter for programs, by its path, and imports nothing of this package: only jupyterlab with
its server, which is optional. SETTINGS is a JSON object: host, ports (the first and the last; 0: any free one), path
(below which everything lies, `{port}` in it), hosts (names by which browsers may ask besides this machine's own), idle
(seconds), opened (the file that tells the port once the server listens). The token comes in BROKER_TOKEN, is taken out
of the environment that kernels see, and is not logged.

Exit 0: it was shut down. Exit 4: nobody had used it for `idle` seconds.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from jupyter_server.serverapp import ServerApp
from tornado import httpserver, ioloop
from traitlets.config import Config

UNUSED = 4  # exit code
LOOK = 30.0  # seconds between two looks at whether anybody is there, at most


class Server(ServerApp):
    """Listens on the socket it is given, and stops when nobody has used it for `idle` seconds.

    Jupyter's own time limit does not serve: an open page asks for the list of files every few seconds, and each answer
    counts as use. Here computing counts, saving, and what is typed at a terminal; a kernel that computes is never idle.
    """

    listening: socket.socket
    opened: Path
    idle: float
    unused = False

    def init_httpserver(self) -> None:
        # The socket is held from the choice of its port on: nobody can take it in between.
        self._http_server = httpserver.HTTPServer(self.web_app, xheaders=self.trust_xheaders)
        self._http_server.add_socket(self.listening)
        self.io_loop.add_callback(self._tell)

    def _tell(self) -> None:
        new = self.opened.with_suffix(".new")
        new.write_text(str(self.port))
        new.replace(self.opened)

    def init_shutdown_no_activity(self) -> None:
        self._saved = datetime.now(UTC)
        contents: Any = self.contents_manager
        contents.register_post_save_hook(self._note_saving)
        ioloop.PeriodicCallback(self.shutdown_no_activity, min(LOOK, self.idle / 4) * 1000).start()

    def _note_saving(self, **_: object) -> None:
        self._saved = datetime.now(UTC)

    def shutdown_no_activity(self) -> None:
        kernels: list[Any] = [self.kernel_manager.get_kernel(name) for name in self.kernel_manager.list_kernel_ids()]
        if any(kernel.execution_state in ("busy", "starting") for kernel in kernels):
            return
        terminals = getattr(self.web_app.settings.get("terminal_manager"), "terminals", {})
        used = max([self._saved, *(thing.last_activity for thing in (*kernels, *terminals.values()))])
        if (datetime.now(UTC) - used).total_seconds() > self.idle:
            self.unused = True
            self.stop()


def listen(host: str, first: int, last: int) -> socket.socket:
    """On one of the ports; which, is drawn, so that sessions that start together seldom meet. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(range(first, last + 1), last - first + 1):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(128)
            listening.setblocking(False)
        except OSError:
            listening.close()
        else:
            return listening
    raise OSError(f"none of the ports {first} to {last} of {host} is free")


def configured(settings: dict[str, Any], port: int, token: str) -> dict[str, Any]:
    return {
        "ServerApp": {
            "ip": settings["host"],
            "port": port,
            "base_url": settings["path"].replace("{port}", str(port)),
            "root_dir": str(Path.cwd()),
            "open_browser": False,
            "allow_root": True,  # where the broker runs as root, its jobs do, and its profile says so
            "local_hostnames": ["localhost", *(host.replace("{port}", str(port)) for host in settings["hosts"])],
            "jpserver_extensions": {"jupyterlab": True},
        },
        "IdentityProvider": {"token": token},
        # Nothing is asked of servers that the person did not name.
        "LabApp": {
            "news_url": None,
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "extension_manager": "readonly",
        },
    }


def hush() -> None:
    """Every session begins in a new home, and would ask anew whether Jupyter's news are wanted."""
    place = Path.home() / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension"
    place.mkdir(parents=True, exist_ok=True)
    (place / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')


def main(settings: dict[str, Any]) -> NoReturn:
    try:
        listening = listen(settings["host"], *settings["ports"])
    except OSError as error:
        sys.exit(f"{error}.")
    hush()
    server = Server.instance()
    server.listening, server.opened, server.idle = listening, Path(settings["opened"]), settings["idle"]
    server.update_config(Config(configured(settings, listening.getsockname()[1], os.environ.pop("BROKER_TOKEN"))))
    server.initialize(argv=[])
    server.start()
    # Where a request for files was under way, its thread never ends, and Python would wait for it.
    os._exit(UNUSED if server.unused else 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
