"""The site of the documents: it is built without a warning, holds every page, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.system


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "-f",
            str(docs / "site/mkdocs.yml"),
            "-d",
            str(site),
        ],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    built = build(DOCS, site)
    assert built.returncode == 0, built.stdout + built.stderr
    return site


def test_every_page_is_in_it_and_can_be_found(site: Path) -> None:
    pages = [path.relative_to(DOCS) for path in DOCS.glob("**/*.md")]
    assert len(pages) > 30
    start = (site / "index.html").read_text()
    for page in pages:
        built = page.with_suffix(".html") if page.name != "README.md" else page.with_name("index.html")
        assert (site / built).is_file(), page
        assert f'href="{built.as_posix()}"' in start, f"{page} is not in the navigation"


class Loads(HTMLParser):
    """What a browser fetches by itself when it shows the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe") and given.get("src"):
            self.found.append(given["src"] or "")
        if tag == "link" and given.get("rel") != "canonical" and given.get("href"):
            self.found.append(given["href"] or "")


def test_reading_it_fetches_nothing_from_elsewhere(site: Path) -> None:
    loads = Loads()
    for page in site.glob("**/*.html"):
        loads.feed(page.read_text())
    assert len(loads.found) > 100
    assert [url for url in loads.found if "//" in url] == []
    for sheet in site.glob("assets/**/*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("ranking.md", "[nowhere](no-such-page.md)"),
        ("ranking.md", "[nowhere](settings.md#nowhere)"),
        ("lost.md", "# Lost"),
    ],
)
def test_what_leads_nowhere_ends_the_build(page: str, text: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("__pycache__"))
    with (docs / page).open("a") as file:
        file.write(f"\n{text}\n")
    assert build(docs, tmp_path / "site").returncode != 0
