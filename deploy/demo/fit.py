"""A Hubble diagram: from a catalogue of galaxies to the expansion rate and the density of matter.

    python fit.py CATALOGUE.fits

The catalogue is a FITS file whose first extension is a binary table with the columns Z (redshift) and FLUX (mJy) of
galaxies that all shine alike (header card LUMINOSI, W/Hz). A flat universe of matter and a cosmological constant is
fitted to their distances by least squares. Writes results/hubble.csv and results/fit.json; needs Python 3 alone.
"""

import json
import math
import struct
import sys
from pathlib import Path

BLOCK = 2880  # bytes: every part of a FITS file fills whole blocks
FORMATS = {"J": "i", "E": "f", "D": "d"}  # TFORMn → struct, both big-endian
METRES = 3.0856775814913673e22  # in a Mpc
LIGHT = 299792.458  # km/s
STEPS = 400  # of the table of distances
BINS = 25


def read_header(file):
    """The cards of one header as a dictionary; the file is left where the data begin."""
    cards = {}
    while True:
        block = file.read(BLOCK).decode("ascii")
        if len(block) < BLOCK:
            raise SystemExit("the file ends within a header")
        for card in (block[i : i + 80] for i in range(0, BLOCK, 80)):
            key, value = card[:8].strip(), card[10:].split(" /")[0].strip()
            if key == "END":
                return cards
            if card[8:10] == "= ":
                cards[key] = value.strip("'").strip() if value.startswith("'") else value


def read_table(path):
    """(header, {column: values}) of the first extension of a FITS file."""
    with path.open("rb") as file:
        read_header(file)  # the primary header: no data follow it
        header = read_header(file)
        names = [header[f"TTYPE{i}"] for i in range(1, int(header["TFIELDS"]) + 1)]
        row = struct.Struct(">" + "".join(FORMATS[header[f"TFORM{i}"][-1]] for i in range(1, len(names) + 1)))
        data = file.read(int(header["NAXIS1"]) * int(header["NAXIS2"]))
    return header, dict(zip(names, zip(*row.iter_unpack(data), strict=True), strict=True))


def distance_table(matter, most):
    """5 log10 of the luminosity distance in units of c/H0, at STEPS + 1 redshifts from 0 to `most`."""
    step = most / STEPS
    rate = [1 / math.sqrt(matter * (1 + i * step) ** 3 + 1 - matter) for i in range(STEPS + 1)]
    table, comoving = [-math.inf], 0.0
    for i in range(1, STEPS + 1):
        middle = 1 / math.sqrt(matter * (1 + (i - 0.5) * step) ** 3 + 1 - matter)
        comoving += step * (rate[i - 1] + 4 * middle + rate[i]) / 6
        table.append(5 * math.log10(comoving * (1 + i * step)))
    return table


def compare(matter, redshifts, moduli):
    """(mean, sum of squares about it) of what the distance moduli differ by from the model."""
    most = max(redshifts)
    table, scale = distance_table(matter, most), STEPS / most
    total = squares = 0.0
    for z, modulus in zip(redshifts, moduli, strict=True):
        place = z * scale
        i = min(int(place), STEPS - 1)
        # 5 log10 z is taken apart: what is left of the table is nearly straight, down to small redshifts.
        low = table[i] - 5 * math.log10(i / scale) if i else 0.0
        high = table[i + 1] - 5 * math.log10((i + 1) / scale)
        rest = modulus - low - (high - low) * (place - i) - 5 * math.log10(z)
        total += rest
        squares += rest * rest
    mean = total / len(moduli)
    return mean, squares - total * mean


def fit(redshifts, moduli):
    """H0 in km/s/Mpc and the density of matter, each with its error: the lowest point of a parabola through three
    points, again and again, closer each time."""
    centre, width = 0.5, 0.2
    for _ in range(6):
        points = [compare(m, redshifts, moduli) for m in (centre - width, centre, centre + width)]
        (_, left), (_, middle), (_, right) = points
        curve = (left - 2 * middle + right) / (2 * width * width)
        centre = min(max(centre - (right - left) / (4 * width * curve), 0.1), 0.9)
        width /= 3
    offset, squares = compare(centre, redshifts, moduli)
    variance = squares / (len(moduli) - 2)
    spread = math.sqrt(variance / curve)
    slope = (points[2][0] - points[0][0]) / (6 * width)
    hubble = LIGHT / 10 ** ((offset - 25) / 5)
    error = hubble * math.log(10) / 5 * math.hypot(math.sqrt(variance / len(moduli)), slope * spread)
    return hubble, error, centre, spread


def binned(redshifts, moduli):
    """(mean redshift, mean distance modulus, galaxies) in BINS steps of redshift."""
    most = max(redshifts) * (1 + 1e-9)
    bins = [[0.0, 0.0, 0] for _ in range(BINS)]
    for z, modulus in zip(redshifts, moduli, strict=True):
        place = bins[int(z / most * BINS)]
        place[0] += z
        place[1] += modulus
        place[2] += 1
    return [(z / n, modulus / n, n) for z, modulus, n in bins if n]


def main(path):
    header, table = read_table(path)
    redshifts = table["Z"]
    # Flux in mJy (1e-29 W/m2/Hz) and luminosity give the distance; the modulus is 5 log10 of it in units of 10 pc.
    bright = float(header["LUMINOSI"]) / (4 * math.pi * 1e-29 * METRES * METRES)
    moduli = [2.5 * math.log10(bright / flux) + 25 for flux in table["FLUX"]]
    hubble, hubble_error, matter, matter_error = fit(redshifts, moduli)
    results = Path("results")
    results.mkdir(exist_ok=True)
    lines = [f"{z:.4f},{modulus:.4f},{n}" for z, modulus, n in binned(redshifts, moduli)]
    (results / "hubble.csv").write_text("\n".join(["z,distance_modulus,galaxies", *lines, ""]))
    found = {
        "galaxies": len(moduli),
        "H0": hubble,
        "H0_error": hubble_error,
        "matter": matter,
        "matter_error": matter_error,
    }
    (results / "fit.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{len(moduli)} galaxies, redshift {min(redshifts):.2f} to {max(redshifts):.2f}")
    print(f"H0     = {hubble:.2f} +- {hubble_error:.2f} km/s/Mpc")
    print(f"matter = {matter:.4f} +- {matter_error:.4f} of the critical density")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
