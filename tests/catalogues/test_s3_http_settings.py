"""What the settings say of S3 and HTTP, and what is refused before a start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.errors import SettingsError
from broker.settings import load_settings
from broker.wiring import check


async def checked(folder: Path, catalogue: dict[str, Any], **more: Any) -> list[str]:
    file = folder / "broker.yaml"
    file.write_text(yaml.safe_dump({"name": "here", "store": "broker.db", "catalogues": {"it": catalogue}, **more}))
    return [line for line in await check(load_settings(file)) if line.startswith("ok    catalogues.")]


async def test_catalogues_that_can_be_built_are_listed(tmp_path: Path) -> None:
    s3 = {"kind": "s3", "url": "https://s3.example", "credentials": "key"}
    keys = {"key": {"username": "a", "password": "b"}}
    assert await checked(tmp_path, s3, credentials=keys) == ["ok    catalogues.it: s3 at https://s3.example"]
    assert await checked(tmp_path, {"kind": "http"}) == ["ok    catalogues.it: http"]


@pytest.mark.parametrize(
    ("catalogue", "key"),
    [
        ({"kind": "s3"}, "catalogues.it.url"),
        ({"kind": "s3", "url": "s3.example"}, "catalogues.it.url"),
        ({"kind": "s3", "url": "https://s3.example", "credentials": "token"}, "catalogues.it.credentials"),
        ({"kind": "s3", "url": "https://s3.example", "options": {"regoin": "x"}}, "catalogues.it.options.regoin"),
        (
            {"kind": "s3", "url": "https://10.0.0.1", "options": {"addressing": "virtual"}},
            "catalogues.it.options.addressing",
        ),
        ({"kind": "http", "options": {"reach": "everything"}}, "catalogues.it.options.reach"),
        ({"kind": "http", "options": {"hosts": ["https://x"]}}, "catalogues.it.options.hosts"),
        ({"kind": "htttp"}, "catalogues.it.kind"),
    ],
)
async def test_what_cannot_work_is_refused_by_its_key(tmp_path: Path, catalogue: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await checked(tmp_path, catalogue, credentials={"token": {"token": "t"}})
    assert caught.value.key == key
