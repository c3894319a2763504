"""What passes in a settings file, and is hardly meant, is said by check-config with its key and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.errors import SettingsError
from broker.oversights import oversights
from broker.settings import load_settings
from broker.wiring import check

GOOD = """\
name: net
sites:
  alba:
    url: https://alba.example
    storages:
      - {name: ALBA-DISK, prefixes: ["https://data.alba.example/"]}
      - {name: ALBA-TAPE, recall: [600, 7200]}
  borealis:
    url: https://borealis.example
    storages: [{name: BOREALIS-S3, prefixes: ["s3://borealis/"]}]
links:
  - {source: ALBA-DISK, target: BOREALIS-S3, bandwidth: 120.0e+6}
  - {source: "*", target: "*", bandwidth: 50.0e+6}
catalogues:
  web: {kind: http}
locating: {patience: 1}
"""


def found(folder: Path, old: str = "", new: str = "") -> list[str]:
    assert old in GOOD
    file = folder / "net.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    return oversights(load_settings(file))


def test_a_file_that_is_meant_says_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("target: BOREALIS-S3", "target: BOREALIS-S33",
         "links.0.target: no storage here is called BOREALIS-S33. Nearest: BOREALIS-S3"),
        ("target: BOREALIS-S3", "target: borealis",
         "links.0.target: no storage here is called borealis; that is a site, and a link leads to a storage: "
         "BOREALIS-S3"),
        ("source: ALBA-DISK", 'source: "ALBA-*"',
         'links.0.source: no storage here is called ALBA-*; "*" stands for all storages, and for no part of a name'),
        ("source: ALBA-DISK", "source: QX",
         "links.0.source: no storage here is called QX, so it counts only where a site says itself that it has it"),
        ("links:\n", "links:\n  - {source: ALBA-DISK, target: BOREALIS-S3, bandwidth: 1.0e+6}\n",
         "links.0: ALBA-DISK to BOREALIS-S3 stands here more than once, and the first counts"),
        ("120.0e+6", "120", "links.0.bandwidth: 120 bytes a second; 1 Gbit/s is written 125.0e+6"),
        ("120.0e+6", "120.0e+6, bandwidth_low: 200.0e+6",
         "links.0.bandwidth_low: more than bandwidth, which is that of a good day; they are taken the other way"),
        ("120.0e+6", "120.0e+6, price: 1, currency: USD",
         "links.0.currency: USD has no rate, so the price is not known. Add it to currencies.rates"),
        ("s3://borealis/", "https://data.alba.example",
         "sites.borealis.storages.0.prefixes: https://data.alba.example is said to be on ALBA-DISK as well, and counts "
         "as being there"),
        ("s3://borealis/", "borealis",
         "sites.borealis.storages.0.prefixes: borealis begins no URL. Write it with its scheme, such as https:// or "
         "s3://"),
        ("links:\n", "  cumulus: {url: \"https://cumulus.example\"}\nlinks:\n",
         "sites: no storages are declared for cumulus: unless they say themselves what they have, no data counts as "
         "being there"),
        ("    url: https://borealis.example\n", "    url: https://borealis.example\n    writes: [https, s3:results]\n",
         "sites.borealis.writes: s3:results is no scheme, nor the beginning of a place such as s3://results/"),
        ("patience: 1", "patience: 10",
         "locating.patience: sites wait for the catalogues until their answers come too late: less than "
         "fanout.deadline (10 s) is wanted"),
        ("kind: http", "kind: http, url: \"https://data.example\"",
         "catalogues.web.url: the kind http asks the addresses of the data itself, and not this one"),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert found(tmp_path, old, new) == [said]


def test_check_config_warns_of_it(tmp_path: Path) -> None:
    found(tmp_path, "target: BOREALIS-S3", "target: BOREALIS-S33")
    lines = asyncio.run(check(load_settings(tmp_path / "net.yaml")))
    assert "warn  links.0.target: no storage here is called BOREALIS-S33. Nearest: BOREALIS-S3" in lines


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[600, 7200]", "[7200, 600]",
         "sites.alba.storages.1.recall: two numbers of seconds are wanted, the least before the most, such as "
         "[600, 7200]"),
        ("[600, 7200]", "600",
         "sites.alba.storages.1.recall: two numbers of seconds are wanted, the least before the most, such as "
         "[600, 7200]"),
        ("120.0e+6", "120e6", "links.0.bandwidth: a number is wanted. Write 120.0e+6."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_remedy(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(SettingsError) as fault:
        found(tmp_path, old, new)
    assert str(fault.value).endswith(said)


def test_a_secret_that_cannot_be_read_is_named_with_its_entry(tmp_path: Path) -> None:
    more = 'catalogues:\n  ska: {kind: rucio, url: "https://rucio.example", credentials: ska}\n'
    secret = "credentials:\n  ska: {username: u, password_file: nothere}\n"
    (tmp_path / "net.yaml").write_text(GOOD.replace("catalogues:\n", more) + secret)
    with pytest.raises(SettingsError) as fault:
        asyncio.run(check(load_settings(tmp_path / "net.yaml")))
    assert fault.value.key == "credentials.ska.password_file"
    assert fault.value.detail.endswith("nothere cannot be read: No such file or directory.")
