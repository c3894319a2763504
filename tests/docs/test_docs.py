"""The documents hold what they claim: tables are current, links lead somewhere, examples are accepted."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from adapters.ivoa.adapter import IvoaOptions
from adapters.local.options import LocalOptions
from adapters.planning.settings import SiteSettings, site_settings
from adapters.simulated.options import SimulatedOptions
from broker.api.routes import routes
from broker.api.wire import CODECS
from broker.api.yamltext import decode_yaml
from broker.domain.faults import parse
from broker.domain.request import ExecutionRequest, check
from broker.domain.site import Registration
from broker.domain.updates import AbstractUpdate
from broker.plugins import load
from broker.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCS = sorted(
    path
    for place in ("", "docs", "docs/adr", "docs/howto", "docs/examples/adapter")
    for path in (ROOT / place).glob("*.md")
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
CITED = re.compile(r"\b(protocol\.md|docs/[\w./-]+\.md|docs/adr/\d{4}|design, section) ?(\d+(?:\.\d+)?)?")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["settings.md", "api.md", "cli.md", "errors.md", "client.md"])
def test_the_tables_are_current(generate: ModuleType, name: str) -> None:
    assert generate.BLOCK.search(text(f"docs/{name}"))
    assert generate.refresh(ROOT / "docs" / name, check=True), "run: python docs/generate.py"


def test_a_table_that_is_not_current_is_found(generate: ModuleType, tmp_path: Path) -> None:
    stale = tmp_path / "stale.md"
    stale.write_text("<!-- made: calls -->\nold\n<!-- end -->\n")
    assert not generate.refresh(stale, check=True)
    assert "old" in stale.read_text()
    assert generate.refresh(stale, check=False)
    assert "`POST /requests`" in stale.read_text()
    assert generate.refresh(stale, check=True)


@pytest.mark.parametrize("model", [Settings, SiteSettings, LocalOptions, SimulatedOptions, IvoaOptions])
def test_every_setting_is_described(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for key, field in part.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key} says nothing of itself"
            assert f"`{key}`" in text("docs/settings.md")


def test_every_built_in_kind_has_its_options_documented() -> None:
    for kind, plugin in load().items():
        if plugin.options.__module__.startswith("adapters."):
            assert f"## Options of the kind {kind}" in text("docs/settings.md")


def test_every_call_is_documented(generate: ModuleType) -> None:
    page = text("docs/api.md")
    for route in routes(generate._Nothing()):
        path = re.sub(r":[^}]*}", "}", route.path)
        assert f"| `{route.method} {path}` | {route.policy.value} |" in page


def test_every_command_is_documented() -> None:
    from broker.cli.main import build

    page = text("docs/cli.md")
    commands = dict(_leaves(build()._command, "broker"))
    assert len(commands) > 15
    for name, command in commands.items():
        assert f"### {name}\n" in page
        assert command.help, f"{name} says nothing of itself"


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from _leaves(child, f"{path} {name}")


def test_the_readme_denies_nothing_that_is_there(generate: ModuleType) -> None:
    """What stands under "What it does not do yet" is taken out by whoever makes it."""
    denied = text("README.md").partition("## What it does not do yet")[2].partition("\n## ")[0]
    there = {route.path for route in routes(generate._Nothing())}
    for words, made in {
        "**XML.**": any(codec.name == "xml" for codec in CODECS),
        "**Redis,": (ROOT / "broker" / "store" / "redis.py").exists(),
        "**Pushed updates,": "/events" in there or "/dashboard" in there or "/capabilities" in there,
        "**Older drafts": "/request" in there,
        "**Other platforms.**": len(load()) > 3,
    }.items():
        assert not (made and words in denied), f"README.md still says that there is no {words.strip('*.,')}"


# ── links and citations ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), f"{relative(path)} links to {link}"
        if anchor:
            assert anchor in _anchors(target), f"{relative(path)} links to {link}"


def _anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("name", "least"), [("docs/tour.md", 30), ("docs/design.md", 15), ("docs/adapters.md", 5)])
def test_every_file_that_is_named_exists(name: str, least: int) -> None:
    named = set(re.findall(r"`((?:broker|adapters|tests|docs)/[\w./-]+)[:`]", text(name)))
    assert len(named) >= least
    assert [file for file in sorted(named) if not (ROOT / file).exists()] == []


def test_every_function_named_in_the_tour_is_in_its_file() -> None:
    """Written as `file.py:Class.name` or `file.py:name`."""
    named = re.findall(r"`((?:broker|adapters)/[\w/]+\.py):([\w.]+)`", text("docs/tour.md"))
    assert len(named) > 30
    for file, name in named:
        source = text(file)
        for part in name.split("."):
            found = re.search(rf"^\s*(?:async def|def|class) {part}\b|^{part}\b.*=", source, re.MULTILINE)
            assert found, f"{file} has no {name}"


def test_what_the_code_cites_is_there() -> None:
    pages = {"protocol.md": _sections("docs/protocol.md"), "design, section": _sections("docs/design.md")}
    cited = 0
    for source in [*ROOT.glob("broker/**/*.py"), *ROOT.glob("adapters/**/*.py")]:
        for where, section in CITED.findall(source.read_text(encoding="utf-8")):
            cited += 1
            if where in pages:
                assert section in pages[where], f"{relative(source)} cites {where} {section}"
            elif where.startswith("docs/adr/"):
                assert list(ROOT.glob(f"{where}-*.md")), f"{relative(source)} cites {where}"
            else:
                assert (ROOT / where).exists(), f"{relative(source)} cites {where}"
    assert cited > 10


def _sections(name: str) -> set[str]:
    return set(re.findall(r"^#+ (\d+(?:\.\d+)?)\b", text(name), re.MULTILINE))


def test_the_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    for path in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")):
        page = path.read_text(encoding="utf-8")
        assert re.match(rf"# {int(path.name[:4])}\. ", page)
        for head in ("## Context", "## Decision", "## Rejected"):
            assert head in page, f"{path.name} has no {head}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    page = text("docs/adr/0009-libraries.md").lower()
    names = [re.split(r"[<>=\[ ]", line)[0].lower() for line in project["dependencies"]]
    assert len(names) > 10
    assert [name for name in names if f"| {name} |" not in page] == []


# ── examples ─────────────────────────────────────────────────────────────────────────────────────────────────


def _examples() -> list[Any]:
    return [
        pytest.param(language, body, id=f"{relative(path)}-{i}")
        for path in DOCS
        for i, (language, body) in enumerate(FENCE.findall(path.read_text(encoding="utf-8")))
        if language in ("yaml", "json")
    ]


@pytest.mark.parametrize(("language", "example"), _examples())
def test_every_example_is_accepted(language: str, example: str, tmp_path: Path) -> None:
    document = json.loads(example) if language == "json" else yaml.safe_load(example)
    assert isinstance(document, dict)
    if "executable" in document:
        check(parse(ExecutionRequest, document if language == "json" else decode_yaml(example.encode())))
    elif "path" in document:
        parse(AbstractUpdate, document)
    elif "name" in document and language == "yaml":
        _check_settings(example, tmp_path)
    else:
        parse(Registration, document)


def _check_settings(example: str, tmp_path: Path) -> None:
    (tmp_path / "broker.yaml").write_text(example)
    settings = load_settings(tmp_path / "broker.yaml")
    kinds = load()
    for site in [*settings.sites.values(), *([settings.own_site] if settings.own_site else [])]:
        kinds[site.kind].options.model_validate(site.options)
    site_settings(settings.site_settings)
