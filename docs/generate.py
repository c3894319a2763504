"""Makes the tables of the documents from the code: settings, calls of the API, commands, errors, messages, the client.

`python docs/generate.py` rewrites what stands between the markers `<!-- made: NAME -->` and `<!-- end -->`;
`python docs/generate.py --check` changes nothing, and ends with 1 where a table is not current.
Imports the broker and the built-in adapters, and pydantic's JSON Schemas of their settings.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from adapters.arc.options import ArcOptions
from adapters.containers.options import ContainersOptions
from adapters.data.datalink import DatalinkOptions
from adapters.data.http import HttpOptions
from adapters.data.rucio import RucioOptions
from adapters.data.s3 import S3Options
from adapters.data.tap import TapOptions
from adapters.ivoa.adapter import IvoaOptions
from adapters.local.options import LocalOptions
from adapters.planning.settings import SiteSettings
from adapters.simulated.options import SimulatedOptions
from adapters.slurm.options import SlurmOptions
from adapters.tes.options import TesOptions
from adapters.wes.options import WesOptions
from broker import client
from broker.api.openapi import describe
from broker.api.problems import TABLE
from broker.api.routes import Parts, routes
from broker.cli.main import build
from broker.settings import Settings

HERE = Path(__file__).parent
BLOCK = re.compile(r"(<!-- made: ([a-z0-9-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
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
    if key == "python" and "/" in str(value):
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
    duration = kind == "number" and ("gt" in field or "ge" in field)
    return "seconds or duration" if duration else words.get(kind or "", "see below")


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


# ── errors and messages ──────────────────────────────────────────────────────────────────────────────────────

# What to do, beside what the document's own `remedy` says. Whoever adds an error or a message adds a line here.
REMEDIES: Mapping[str, str] = {
    "bad-input": "Mend the element that `element` names; `remedy` says how.",
    "malformed": "Send well-formed JSON, YAML or XML of the type that `Content-Type` says.",
    "dangling": "Name a component that is in the request, by its `meta.name` or `meta.uuid`.",
    "unknown-kind": "See `broker kinds` for what can be run here, and where.",
    "not-signed-in": "Sign in: `broker login`, or HTTP Basic, or a Bearer token.",
    "not-allowed": "Sign in as somebody with the role that the call wants, or ask an administrator.",
    "not-found": "Look at the address. What is another's is not found either.",
    "not-acceptable": "Ask for `application/json`, `application/yaml` or `application/xml`.",
    "conflict": "`detail` says what stands in the way. Take another offer, or ask anew.",
    "too-large": "Send less: large sources belong behind a URL. The operator's limits are under `limits`.",
    "unsupported-media-type": "Say in `Content-Type` what you send: JSON, YAML or XML, uncompressed.",
    "key-reused": "Take a new key for a new request; an old one is for the same request again.",
    "too-many": "Come back after `Retry-After` seconds.",
    "unavailable": "Nothing was done. Come back after `Retry-After` seconds; operators look at the disk.",
    "loop": "Operators: two brokers have each other as a site. Take one of the two out.",
    "bad-settings": "Mend the key that `element` names in the registration.",
    "site": "Try again; it is the site's to mend. `broker sites show` says since when.",
    "site-unreachable": "Nothing was sent. Try again, or take an offer of another site.",
    "site-refused": "`detail` has the site's words. Take another offer.",
    "site-forbids": "Operators: the credentials for the site are wrong or have ended.",
    "site-busy": "Nothing was done. Come back after `Retry-After` seconds.",
    "site-timeout": "It may have acted: read the session before you ask again.",
    "site-misbehaved": "It may have acted: read the session. Operators: `broker check` the site's address.",
    "site-forgot": "Logs and results are kept for a time only; or the site has lost the session.",
}
MEANINGS: Mapping[str, tuple[str, str]] = {
    "uri:acceptance-doubt": (
        "It is not known whether the site took it.",
        "Wait: it is being asked, and nothing runs twice. Operators: `broker resolve`.",
    ),
    "uri:acceptance-decided": ("A person who asked at the site says how a doubtful acceptance ended.", "Nothing."),
    "uri:accepted-instead": (
        "Another session was accepted in place of this one, or its site was asked and has not said so yet.",
        "Go on with that one.",
    ),
    "uri:asked-anew": (
        "The site was asked again, since its offer was refused or had expired, and what it wants now.",
        "Where nothing was accepted by itself: accept what it offers now, or another.",
    ),
    "uri:acceptance-refused": ("The site did not take it.", "Take the next offer; `failover` does that by itself."),
    "uri:direct-refused": (
        "Nobody took a direct request, and why.",
        "Change what the reason names, or ask for offers.",
    ),
    "uri:no-sites": ("This broker has no sites.", "Operators: `broker sites put`."),
    "uri:offer-warning": ("The offer is not quite what was asked.", "Look before you accept."),
    "uri:pending": ("Sites have not answered; this NO is not final.", "Read the set again, or follow its events."),
    "uri:phase-at-site": ("The site shows another phase than it may.", "Nothing, unless the session has failed."),
    "uri:session-failed": ("Why the session ended FAILED.", "Read the logs, if there are any; ask anew."),
    "uri:site-declined": ("The site says no, and why.", "Change what the reason names; many say the nearest yes."),
    "uri:site-failed": ("The site could not be asked, or answered nonsense.", "Its operator's, or ours, to mend."),
    "uri:site-forgot": ("The site does not know the session at present.", "Wait; after an hour it is FAILED."),
    "uri:site-message": ("The site's own words about the session.", "As they say."),
    "uri:site-note": ("The words of a site's planner about its offer.", "Look before you accept."),
    "uri:site-offered": ("Offers of the site were left out, and why.", "Loosen the limit that the reason names."),
    "uri:site-skipped": ("The site was not asked, and why.", "The reason says when to come back, if that helps."),
    "uri:site-timedout": ("The site did not answer in time.", "Its offers may still join; else ask anew."),
}
_OUTCOMES = ("offered", "declined", "timedout", "failed", "skipped")


def problems() -> str:
    lines = ["| `type` | status | title | what to do |", "|---|---|---|---|"]
    lines += [
        f"| `{problem.type}` | {problem.status} | {problem.title} | {REMEDIES[problem.slug]} |"
        for problem in TABLE.values()
    ]
    return "\n".join(lines)


def messages() -> str:
    lines = ["| `kind` | what it says | what to do |", "|---|---|---|"]
    for kind in sorted(_kinds()):
        meaning, remedy = MEANINGS[kind]
        lines.append(f"| `{kind}` | {meaning} | {remedy} |")
    return "\n".join(lines)


def _kinds() -> set[str]:
    """Every kind of message that the sources write: the second argument of Note, the first of MessageItem.fill."""
    found: set[str] = set()
    for place in ("broker", "adapters"):
        for source in (HERE.parent / place).glob("**/*.py"):
            if "testing" not in source.parts:
                found.update(_written(ast.parse(source.read_text(encoding="utf-8"))))
    return found


def _written(tree: ast.AST) -> Iterator[str]:
    for call in ast.walk(tree):
        if (
            isinstance(call, ast.Call)
            and (at := {"Note": 1, "MessageItem.fill": 0}.get(ast.unparse(call.func))) is not None
        ):
            kind = call.args[at] if len(call.args) > at else None
            if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
                yield kind.value
            elif isinstance(kind, ast.JoinedStr) and isinstance(kind.values[0], ast.Constant):
                yield from (str(kind.values[0].value) + outcome for outcome in _OUTCOMES)


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────


def python() -> str:
    parts = [getattr(client, name) for name in client.__all__]
    classes = [part for part in parts if not issubclass(part, Exception)]
    raised = [part for part in parts if issubclass(part, Exception)]
    sections = [_class(part) for part in classes]
    lines = ["### Errors", "", "| error | what it says |", "|---|---|"]
    lines += [f"| `{part.__name__}` | {_sentence(_said(part)) or ''} |" for part in raised]
    return "\n\n".join([*sections, "\n".join(lines)])


def _said(thing: Any) -> str:
    """Its own words, not those of what it inherits from."""
    return inspect.cleandoc(thing.__doc__ or "") if not isinstance(thing, type) or "__doc__" in vars(thing) else ""


def _class(part: type) -> str:
    sections = [f"### {part.__name__}", _markdown(_said(part))]
    for name, member in vars(part).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            sections.append(f"**`.{name}`** {_markdown(_said(member))}".rstrip())
        elif inspect.isroutine(member) or isinstance(member, classmethod | staticmethod):
            plain = getattr(member, "__func__", member)
            kind = "await " if inspect.iscoroutinefunction(plain) else ""
            sections.append(f"**`{kind}.{name}{_signature(plain)}`**\n\n{_markdown(_said(plain))}".rstrip())
    return "\n\n".join(section for section in sections if section)


def _signature(member: Any) -> str:
    """Names, types and defaults as they are written; `self` is left out."""
    plain = inspect.signature(member)
    shown = [item for item in plain.parameters.values() if item.name not in ("self", "cls")]
    return re.sub(r"'", "", str(plain.replace(parameters=shown)))


def _markdown(text: str) -> str:
    return re.sub(r"(?<!`)\b__(\w+)__", r"`__\1__`", text).replace("<", "&lt;") if text else ""


MADE: Mapping[str, Callable[[], str]] = {
    "settings": lambda: settings(Settings),
    "site-settings": lambda: settings(SiteSettings),
    "local-options": lambda: settings(LocalOptions),
    "arc-options": lambda: settings(ArcOptions),
    "containers-options": lambda: settings(ContainersOptions),
    "simulated-options": lambda: settings(SimulatedOptions),
    "slurm-options": lambda: settings(SlurmOptions),
    "tes-options": lambda: settings(TesOptions),
    "wes-options": lambda: settings(WesOptions),
    "ivoa-options": lambda: settings(IvoaOptions),
    "datalink-options": lambda: settings(DatalinkOptions),
    "tap-options": lambda: settings(TapOptions),
    "rucio-options": lambda: settings(RucioOptions),
    "s3-options": lambda: settings(S3Options),
    "http-options": lambda: settings(HttpOptions),
    "calls": calls,
    "commands": commands,
    "problems": problems,
    "messages": messages,
    "client": python,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
