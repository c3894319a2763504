"""A real nginx on the loopback, for tests. Imports `children`. Wants `nginx`. Everything here blocks, and every wait is
bounded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.testing import children

_CONF = """
{user}
pid {folder}/pid;
daemon off;
worker_processes 1;
error_log stderr;
events {{}}
http {{
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    {http}
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        {server}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, server: str, http: str = "") -> Iterator[str]:
    """Its address. It serves `folder`/www. `server`, `http`: further settings of the server, and of all of
    HTTP; without word on that it logs what it was asked to `folder`/access.log."""
    port, file = children.free_port(), folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker may not read our folder
    http = http or f"access_log {folder}/access.log combined;"
    file.write_text(_CONF.format(user=user, folder=folder, port=port, server=server, http=http))
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(file)]
    process = children.launch(command, folder / "log", {"PATH": os.environ["PATH"]}, folder)
    try:
        children.answers(f"http://127.0.0.1:{port}/", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        children.end(process)
