"""Makes the tables of the documents from the code: settings, calls of the API, commands.

`python docs/generate.py` rewrites what stands between the markers `<!-- made: NAME -->` and `<!-- end -->`;
`python docs/generate.py --check` changes nothing, and ends with 1 where a table is not current.
Imports the broker and the built-in adapters, and pydantic's JSON Schemas of their settings.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from adapters.ivoa.adapter import IvoaOptions
from adapters.local.options import LocalOptions
from adapters.planning.settings import SiteSettings
from adapters.simulated.options import SimulatedOptions
from broker.api.openapi import describe
from broker.api.routes import Parts, routes
from broker.cli.main import build
from broker.settings import Settings

HERE = Path(__file__).parent
BLOCK = re.compile(r"(<!-- made: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_MOST = 2**63 - 1  # a bound that bounds nothing

Schema = Mapping[str, Any]


def main(arguments: list[str]) -> int:
    stale = [path for path in sorted(HERE.glob("*.md")) if not refresh(path, check="--check" in arguments)]
    for path in stale:
        sys.stderr.write(f"{path.name} is not current: python docs/generate.py\n")
    return 1 if stale and "--check" in arguments else 0


def refresh(path: Path, *, check: bool) -> bool:
    """Whether the document is current; unless `check`, it is afterwards."""
    old = path.read_text(encoding="utf-8")
    new = BLOCK.sub(lambda block: f"{block[1]}\n{MADE[block[2]]()}\n\n{block[4]}", old)
    if new != old and not check:
        path.write_text(new, encoding="utf-8")
    return new == old or not check


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────


def settings(model: type[BaseModel]) -> str:
    """One table for the model, and one for each model within it."""
    whole = model.model_json_schema()
    parts: Mapping[str, Schema] = whole.get("$defs", {})
    sections = [_table(whole)]
    for name in _reached(whole, parts):
        sections += [f"### {name}", _words(parts[name]), _table(parts[name])]
    return "\n\n".join(section for section in sections if section)


def _reached(schema: Schema, parts: Mapping[str, Schema]) -> list[str]:
    """In the order in which the tables mention them."""
    found: list[str] = []
    for field in schema.get("properties", {}).values():
        for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(field)):
            found += [part for part in (name, *_reached(parts[name], parts)) if part not in found]
    return list(dict.fromkeys(found))


def _words(schema: Schema) -> str:
    return " ".join(str(schema.get("description", "")).split())


def _table(schema: Schema) -> str:
    required = schema.get("required", ())
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        default = "required" if key in required else _default(key, field)
        cells = (f"`{key}`", _type(field), default, _words(field))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _default(key: str, field: Schema) -> str:
    value = field.get("default")
    if key == "python":
        return "the broker's own"  # a path of whatever machine this runs on
    if value in (None, "", [], {}) or isinstance(value, dict):
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value}`"


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(item) for item in field["anyOf"] if item.get("type") != "null")
    kind = field.get("type")
    if kind == "array":
        return _pair(field) if "prefixItems" in field else f"list of {_type(field['items'])}"
    if kind == "object":
        return _mapping(field)
    return _named(kind, field) + _range(field)


def _pair(field: Schema) -> str:
    return "[low, high]"


def _mapping(field: Schema) -> str:
    values = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), None)
    return f"map of {_type(values)}" if isinstance(values, dict) else "keys and values"


def _named(kind: str | None, field: Schema) -> str:
    if kind == "string":
        return {"duration": "duration, ISO 8601", "path": "path", "date-time": "instant"}.get(
            field.get("format", ""), "text"
        )
    words = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    # Written by a validator that pydantic's schema cannot show: seconds, or a duration.
    return "seconds or duration" if "gt" in field and kind == "number" else words.get(kind or "", "see below")


def _range(field: Schema) -> str:
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high = field.get("maximum")
    parts = [f"above {above:g}" if above is not None else "", f"from {low:g}" if low is not None else ""]
    parts.append(f"to {high:.15g}" if high is not None and high != _MOST else "")
    text = " ".join(part for part in parts if part)
    return f", {text}" if text else ""


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Nothing:
    """Stands for every part of a server: only the routes are looked at, never called."""

    def __getattr__(self, name: str) -> Any:
        return None


def calls() -> str:
    described = json.loads(describe("0"))["paths"]
    lines = ["| call | for whom | what it does |", "|---|---|---|"]
    for route in routes(cast(Parts, _Nothing())):
        path = re.sub(r":[^}]*}", "}", route.path)
        words = described[path][route.method.lower()]
        text = " ".join(str(words.get("description") or words.get("summary") or "").split())
        lines.append(f"| `{route.method} {path}` | {route.policy.value} | {text} |")
    return "\n".join(lines)


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> str:
    return "\n\n".join(_commands(build()._command, "broker"))


def _commands(command: Any, path: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if not children:
        yield f"### {path}\n\n{_sentence(command.help)}\n\n{_parameters(command)}".rstrip()
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _parameters(command: Any) -> str:
    shown = [item for item in command.params if item.name != "help"]
    if not shown:
        return ""
    lines = ["| argument | meaning |", "|---|---|"]
    for item in shown:
        option = item.param_type_name == "option"
        name = ", ".join(item.opts) if option else (item.name or "").upper()
        wanted = " (required)" if item.required and option else "" if item.required or option else " (may be left out)"
        lines.append(f"| `{name}` | {_sentence(getattr(item, 'help', ''))}{wanted} |")
    return "\n".join(lines)


MADE: Mapping[str, Callable[[], str]] = {
    "settings": lambda: settings(Settings),
    "site-settings": lambda: settings(SiteSettings),
    "local-options": lambda: settings(LocalOptions),
    "simulated-options": lambda: settings(SimulatedOptions),
    "ivoa-options": lambda: settings(IvoaOptions),
    "calls": calls,
    "commands": commands,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
