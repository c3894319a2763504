"""The examples load, say nothing that would not start, and keep to the JSON Schema, which is current."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from broker import plugins
from broker.domain.site import Registration
from broker.errors import SettingsError
from broker.settings import Settings, load_settings
from broker.wiring import check, checked

FOLDER = Path(__file__).parents[2] / "config"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
SITES = sorted((FOLDER / "sites").glob("*.yaml"))


def named(path: Path) -> str:
    return path.name


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "settings.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return document


def fits(document: object, schema: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def test_the_schema_is_current_and_a_stale_one_is_told(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "schema.py", tmp_path)
    command = [sys.executable, str(tmp_path / "schema.py"), "--check"]
    shutil.copy(FOLDER / "settings.schema.json", tmp_path)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    with (tmp_path / "settings.schema.json").open("a") as file:
        file.write(" ")
    stale = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (stale.returncode, stale.stderr) == (1, "config/settings.schema.json is not current: make schema\n")


def test_the_schema_holds_no_path_of_this_machine() -> None:
    assert sys.prefix not in (FOLDER / "settings.schema.json").read_text()


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
async def test_an_example_starts_without_a_warning(example: Path) -> None:
    lines = await check(load_settings(example))
    assert [line for line in lines if not line.startswith("ok ")] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_an_example_fits_the_schema(example: Path, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(example.read_text()))


@pytest.mark.parametrize("example", SITES, ids=named)
def test_a_registration_fits_the_schema_and_its_adapter(example: Path, schema: dict[str, Any]) -> None:
    document = yaml.safe_load(example.read_text())
    jsonschema.Draft202012Validator(schema).validate({"name": "x", "sites": {"it": document}})
    checked(Registration.model_validate({"name": "it", **document}), plugins.load())


def test_there_is_an_example_of_each_sort() -> None:
    assert {path.name for path in EXAMPLES} >= {"federation.yaml", "site-local.yaml", "site-simulated.yaml"}
    assert SITES


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"name": "x", "sorage": "a.db"},
        {"name": "x", "tariff": "gratis"},
        {"name": "x", "tariff": {"core_hour": "3"}},
        {"name": "x", "platform": {"kind": "local"}},
        {"name": "x", "platform": {"kind": "simulated", "speed": 3}},
        {"name": "x", "platform": {"kind": "ivoa"}},
        {"name": "x", "fanout": {"deadline": "10 s"}},
        {"name": "x", "fanout": {"deadline": 0}},
        {"name": "x", "sites": {"a": {"url": "https://a.example", "options": {"paralel": 3}}}},
        {"name": "x", "sites": {"a": {"kind": "simulated", "options": {"parallel": 3}}}},
    ],
    ids=str,
)
def test_the_schema_refuses(document: object, schema: dict[str, Any]) -> None:
    assert not fits(document, schema)


@pytest.mark.parametrize(
    "document",
    [
        {"name": "x"},
        {"name": "x", "tariff": "free", "platform": {"kind": "local", "folder": "jobs"}},
        {"name": "x", "tariff": {"core_hour": 1, "egress": {"min": 0, "max": 1}}},
        {"name": "x", "platform": {"kind": "abacus", "url": "http://127.0.0.1:6820"}},
        {"name": "x", "fanout": {"deadline": "PT10S", "grace": 3.5}},
        {"name": "x", "sites": {"a": {"url": "https://a.example", "options": {"parallel": 3}}}},
    ],
    ids=str,
)
def test_the_schema_takes(document: object, schema: dict[str, Any]) -> None:
    assert fits(document, schema)


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "name: x\nplatform: {kind: local, folder: jobs}\ntariff: free\n"
        "credentials: {a: {token_file: secret}, b: {password_file: /there/secret}, c: {token: t}}\n"
    )
    settings = load_settings(file)
    assert settings.store == str(tmp_path / "broker.db")
    assert settings.platform == {"kind": "local", "folder": str(tmp_path / "jobs")}
    assert settings.credentials["a"].token_file == tmp_path / "secret"
    assert settings.credentials["b"].password_file == Path("/there/secret")
    assert settings.credentials["c"].token_file is None


async def test_an_option_that_the_platform_does_not_know_is_told_by_its_key(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("name: x\nplatform: {kind: local, folder: jobs, isolaton: bwrap}\ntariff: free\n")
    with pytest.raises(SettingsError, match=r"platform.*isolaton"):
        await check(load_settings(file))


async def test_a_platform_beside_a_store_that_others_may_share_is_warned_of() -> None:
    given: dict[str, Any] = {"name": "x", "platform": {"kind": "simulated"}, "tariff": "free"}
    shared = await check(Settings(**given, store="redis://127.0.0.1:1/0"))
    assert [line for line in shared if line.startswith("warn  platform: ")]
    assert not [line for line in await check(Settings(**given)) if line.startswith("warn  platform: ")]
