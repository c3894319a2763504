"""What a WES server says that it can do. Pure.

Source: ServiceInfo in GA4GH's workflow_execution_service.openapi.yaml 1.1.0. Servers differ: toil 9.6 writes types in
lower case and an engine's versions as one word, sapporo 2.4 says "sapporo-wes-2.1.0" for the version of WES. So no
version of WES is insisted on, and names are compared without case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_MOST = 200  # types, engines, versions
_LONGEST = 100

# Names of one language, without case.
_ALIASES = {"nextflow": "nfl", "snakemake": "smk"}
# Which of a server's engines runs a type where nobody says which: the first that it lists.
_USUAL = {
    "cwl": ("cwltool", "toil", "toil-cwl-runner", "arvados", "cromwell"),
    "wdl": ("cromwell", "miniwdl", "toil", "toil-wdl-runner"),
    "nfl": ("nextflow",),
    "smk": ("snakemake",),
}


class Info(NamedTuple):
    """`types`: as the server spells them → versions; none: it does not say which. `sapporo`: it is one, and
    its additions to WES can be used."""

    types: Mapping[str, tuple[str, ...]]
    engines: tuple[str, ...] = ()
    sapporo: bool = False

    def languages(self) -> tuple[str, ...]:
        """With their versions, such as "CWL v1.2"."""
        return tuple(
            f"{plain.upper() if (plain := _plain(name)) in _USUAL else name} {version}".strip()
            for name, versions in self.types.items()
            for version in versions or ("",)
        )

    def type(self, name: str) -> str | None:
        """As the server spells it; None: it has no such type."""
        return next((known for known in self.types if _plain(known) == _plain(name)), None)

    def version(self, type_: str, wanted: str | None) -> str | None:
        """The server's spelling of the version of a type that it has, or the last that it lists where none is wanted;
        None: it has no such version. What a server does not list it is asked for as it is."""
        listed = self.types[type_]
        if wanted is None:
            return listed[-1] if listed else ""
        if not listed:
            return wanted
        return next((one for one in listed if one.casefold().lstrip("v") == wanted.casefold().lstrip("v")), None)

    def engine(self, type_: str, wanted: str | None) -> str | None:
        """The server's spelling of the engine; "": it is left to the server; None: it has no such engine."""
        if wanted is not None:
            known = next((one for one in self.engines if one.casefold() == wanted.casefold()), None)
            return known if known or self.engines else wanted
        usual = _USUAL.get(_plain(type_), ())
        spelled = {one.casefold(): one for one in self.engines}
        return next((spelled[one] for one in usual if one in spelled), "")


def same_type(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def read(document: Mapping[str, Any]) -> Info:
    """Of whatever the server sent; what is not as it should be counts as not said."""
    return Info(
        types={
            name: _versions(said, "workflow_type_version") for name, said in _named(document, "workflow_type_versions")
        },
        engines=tuple(name for name, _ in _named(document, "workflow_engine_versions")),
        sapporo=any(word.startswith("sapporo-wes-") for word in _words(document.get("supported_wes_versions"))),
    )


def _plain(name: str) -> str:
    return _ALIASES.get(name.casefold(), name.casefold())


def _named(document: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    said = document.get(key)
    if not isinstance(said, dict):
        return []
    return [(name, value) for name, value in said.items() if name.isprintable() and 0 < len(name) <= _LONGEST][:_MOST]


def _versions(said: Any, key: str) -> tuple[str, ...]:
    return _words(said.get(key) if isinstance(said, dict) else said)


def _words(said: Any) -> tuple[str, ...]:
    if isinstance(said, str):
        said = [said]
    if not isinstance(said, list):
        return ()
    return tuple(
        word for word in said[:_MOST] if isinstance(word, str) and word.isprintable() and len(word) <= _LONGEST
    )
