"""An interactive notebook as the supervisor handles it: its connector, and what is kept of it. Imports the standard
library alone.

The server tells its port in a file that the person before it could write as well: it is read as a number, and no link
is followed. Files are kept only when nothing of the run lives any more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from adapters.local.layout import OPENED, TMP, WORK, Desk, Spec
from adapters.local.outputs import PIECE, open_beneath, open_folder

KIND = "uri:jupyter-connector-1.0"  # broker.domain.kinds.JUPYTER_CONNECTOR
MOST_KEPT = 100  # notebooks


def preparing(desk: Desk) -> dict[str, str]:
    """The connector before there is anything to connect to."""
    return {"kind": KIND, "status": "PREPARING", "protocol": urlsplit(desk.url).scheme.upper()}


def location(folder: Path, spec: Spec, desk: Desk, token: str) -> str | None:
    """The address that opens the notebook for whoever holds it; None: the server does not listen yet."""
    try:
        with os.fdopen(open_beneath(folder, TMP, OPENED), "rb") as file:
            port = int(file.read(6))
    except (OSError, ValueError):
        return None
    return f"{desk.url.replace('{port}', str(port))}lab/tree/{quote(spec.script)}?token={token}"


def unused(desk: Desk) -> str:
    return f"nothing was computed or saved for {desk.idle:g} s, so it was ended"


def keep(folder: Path, spec: Spec) -> None:
    """Copy the notebooks that lie where the server began, as they were saved last, to the results. What stands there
    by the same name goes before. A notebook that cannot be copied is left out."""
    with suppress(OSError):
        results = open_folder(folder, spec.results.split("/"))
        try:
            names = sorted(name for name in os.listdir(folder / WORK) if name.endswith(".ipynb"))
            for name in names[:MOST_KEPT]:
                with suppress(OSError):
                    _copy(folder, name, results, spec.bounds.results)
        finally:
            os.close(results)


def _copy(folder: Path, name: str, results: int, most: int) -> None:
    """Whole or not at all."""
    with os.fdopen(open_beneath(folder, WORK, name), "rb") as source:
        if os.fstat(source.fileno()).st_size > most:
            return
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=results)
        try:
            with os.fdopen(new, "wb") as file:
                while piece := source.read(PIECE):
                    file.write(piece)
        except OSError:
            os.unlink(name, dir_fd=results)
            raise
