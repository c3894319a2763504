"""The demo's data: a catalogue of galaxies as a FITS binary table, and a small server for it. Standard library alone.

    python sky.py serve FOLDER [RATE]

serves the files of a folder on a free port of 127.0.0.1, which it prints, as slowly as a link over land would: so many
bytes a second to one reader.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import random
import struct
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SEED = 1929
GALAXIES = 120_000
HUBBLE, MATTER = 70.0, 0.3  # the universe that is drawn from: km/s/Mpc, and a share of the critical density
SCATTER = 0.15  # magnitudes by which galaxies differ from one another
LUMINOSITY = 1e25  # W/Hz
NEAR, FAR = 0.02, 1.5  # redshifts
RATE = 400_000  # bytes a second that the server gives to one reader

_BLOCK = 2880
_METRES = 3.0856775814913673e22
_LIGHT = 299792.458
_COLUMNS = (("ID", "1J", ""), ("RA", "1D", "deg"), ("DEC", "1D", "deg"), ("Z", "1E", ""), ("FLUX", "1E", "mJy"))


def write_catalogue(path: Path, galaxies: int = GALAXIES) -> tuple[int, str]:
    """Make the table; the same bytes each time. Returns their number and their SHA-256."""
    rows = b"".join(_rows(galaxies))
    width = struct.calcsize(">iddff")
    primary = _header(("SIMPLE", "T"), ("BITPIX", "8"), ("NAXIS", "0"), ("EXTEND", "T"))
    table = _header(
        ("XTENSION", "'BINTABLE'"), ("BITPIX", "8"), ("NAXIS", "2"), ("NAXIS1", str(width)),
        ("NAXIS2", str(galaxies)), ("PCOUNT", "0"), ("GCOUNT", "1"), ("TFIELDS", str(len(_COLUMNS))),
        ("EXTNAME", "'GALAXIES'"), ("LUMINOSI", f"{LUMINOSITY:E}"), *_column_cards(),
    )  # fmt: skip
    content = primary + table + rows + bytes(-len(rows) % _BLOCK)
    path.write_bytes(content)
    return len(content), hashlib.sha256(content).hexdigest()


def _column_cards() -> list[tuple[str, str]]:
    cards = []
    for i, (name, form, unit) in enumerate(_COLUMNS, 1):
        cards += [(f"TTYPE{i}", f"'{name:<8}'"), (f"TFORM{i}", f"'{form:<8}'")]
        cards += [(f"TUNIT{i}", f"'{unit:<8}'")] if unit else []
    return cards


def _header(*cards: tuple[str, str]) -> bytes:
    lines = [f"{key:<8}= {value if value.startswith(chr(39)) else value.rjust(20)}".ljust(80) for key, value in cards]
    text = "".join([*lines, "END".ljust(80)])
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK).encode("ascii")


def _rows(galaxies: int) -> list[bytes]:
    chance = random.Random(SEED)
    redshifts, distances = _distances()
    bright = LUMINOSITY / (4 * math.pi * 1e-29 * _METRES * _METRES)
    row = struct.Struct(">iddff")
    rows = []
    for number in range(1, galaxies + 1):
        z = NEAR + (FAR - NEAR) * chance.random() ** 0.5
        i = bisect.bisect_left(redshifts, z, 1, len(redshifts) - 1)
        part = (z - redshifts[i - 1]) / (redshifts[i] - redshifts[i - 1])
        distance = distances[i - 1] + part * (distances[i] - distances[i - 1])
        flux = bright / distance**2 * 10 ** (0.4 * chance.gauss(0.0, SCATTER))
        sky = 360 * chance.random(), math.degrees(math.asin(2 * chance.random() - 1))
        rows.append(row.pack(number, *sky, z, flux))
    return rows


def _distances(steps: int = 20_000) -> tuple[list[float], list[float]]:
    """Luminosity distances in Mpc at redshifts from 0 up to FAR."""
    step = FAR / steps
    redshifts, distances, comoving = [0.0], [0.0], 0.0
    for i in range(1, steps + 1):
        middle = (i - 0.5) * step
        comoving += step * _LIGHT / HUBBLE / math.sqrt(MATTER * (1 + middle) ** 3 + 1 - MATTER)
        redshifts.append(i * step)
        distances.append(comoving * (1 + i * step))
    return redshifts, distances


class _Slow(SimpleHTTPRequestHandler):
    """Gives a tenth of `rate` ten times a second."""

    rate = RATE

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while piece := source.read(self.rate // 10):
            outputfile.write(piece)
            time.sleep(0.1)


def serve(folder: Path) -> None:
    """Until it is ended. Prints its address first."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=str(folder))) as server:
        print(f"data listens on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    _Slow.rate = int(sys.argv[3]) if len(sys.argv) > 3 else RATE
    serve(Path(sys.argv[2]))
