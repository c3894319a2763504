"""Makes config/settings.schema.json, the JSON Schema of a broker's settings file, from the settings themselves.

`python config/schema.py` writes it; `python config/schema.py --check` changes nothing, and ends with 1 where it is not
current. Editors that know YAML Schema complete and check a file that begins with
`# yaml-language-server: $schema=settings.schema.json`.
Imports the broker's settings, the site settings of planning, and the options of the built-in adapters.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from adapters.arc.options import ArcOptions
from adapters.containers.options import ContainersOptions
from adapters.ivoa.adapter import IvoaOptions
from adapters.local.options import LocalOptions
from adapters.planning.settings import SiteSettings
from adapters.simulated.options import SimulatedOptions
from adapters.slurm.options import SlurmOptions
from adapters.tes.options import TesOptions
from adapters.wes.options import WesOptions
from broker.settings import Settings

FILE = Path(__file__).with_name("settings.schema.json")
PLATFORMS: dict[str, type[BaseModel]] = {
    "local": LocalOptions,
    "arc": ArcOptions,
    "containers": ContainersOptions,
    "simulated": SimulatedOptions,
    "slurm": SlurmOptions,
    "tes": TesOptions,
    "wes": WesOptions,
}
KINDS: dict[str, type[BaseModel]] = {"ivoa": IvoaOptions, **PLATFORMS}
OTHERS = "an adapter of your own: its options are checked when the broker starts"

Schema = dict[str, Any]


def schema() -> Schema:
    """Of the whole file."""
    parts: Schema = {}
    whole = _drawn(Settings, parts)
    site = _drawn(SiteSettings, parts)
    for name in ("tariff", "capacity", "policies", "offers"):
        whole["properties"][name] = site["properties"][name]
    whole["properties"]["tariff"] = {"anyOf": [{"const": "free"}, whole["properties"]["tariff"]]}
    whole["properties"]["platform"] = {"anyOf": [_platform(kind, parts) for kind in PLATFORMS] + [_other()]}
    registration = parts["Registration"]
    del registration["properties"]["name"]  # it is the key under `sites`
    registration["allOf"] = [_options(kind, parts) for kind in KINDS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": dict(sorted(parts.items()))}


def _drawn(model: type[BaseModel], parts: Schema) -> Schema:
    drawn: Schema = _clean(model.model_json_schema())
    parts.update(drawn.pop("$defs", {}))
    return drawn


def _platform(kind: str, parts: Schema) -> Schema:
    options = _drawn(PLATFORMS[kind], parts)
    return {
        **options,
        "properties": {"kind": {"const": kind}, "credentials": {"type": "string"}, **options["properties"]},
        "required": ["kind", *options.get("required", ())],
    }


def _other() -> Schema:
    """A kind that is installed beside ours."""
    kind = {"type": "string", "not": {"enum": list(KINDS)}}
    return {"description": OTHERS, "type": "object", "properties": {"kind": kind}, "required": ["kind"]}


def _options(kind: str, parts: Schema) -> Schema:
    """What `options` holds at a site of this kind; `ivoa` is the kind where none is named."""
    named = [] if kind == "ivoa" else ["kind"]
    return {
        "if": {"properties": {"kind": {"const": kind}}, "required": named},
        "then": {"properties": {"options": _drawn(KINDS[kind], parts)}},
    }


def _clean(node: Any) -> Any:
    """Without the titles, and without what pydantic leaves in it that is no JSON Schema."""
    if isinstance(node, list):
        return [_clean(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "number" and ("gt" in node or "ge" in node) and "le" in node:
        return _seconds(node)
    # A key `title` is a title, unless it names a property of that name.
    kept = {key: value for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if kept.get("format") in ("duration", "path"):
        kept = {key: value for key, value in kept.items() if key not in ("gt", "ge", "format")}
    if str(kept.get("default", "")).startswith("/"):
        del kept["default"]  # a path of the machine that this was made on
    return {key: _clean(value) for key, value in kept.items()}


def _seconds(node: Schema) -> Schema:
    """A duration in the settings: seconds, or ISO 8601."""
    least = {"exclusiveMinimum": node["gt"]} if "gt" in node else {"minimum": node["ge"]}
    number = {"type": "number", **least, "maximum": node["le"]}
    rest = {key: value for key, value in node.items() if key in ("default", "description")}
    return {**rest, "anyOf": [number, {"type": "string", "pattern": "^P"}]}


def text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == text():
        return 0
    sys.stderr.write(f"config/{FILE.name} is not current: make schema\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
