"""The command that begins a settings file: init. Imports the settings and the plugins, when it is called.

What is written is the smallest file that starts, each line with its reason, and it is loaded before it is kept.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from broker.cli import desk as desks
from broker.errors import BadInput, SettingsError


class What(StrEnum):
    FEDERATION = "federation"
    SITE = "site"


_ACCESS = """\
access: {anonymous: loopback}         # who calls from this machine need not sign in. For others: take this line out,
                                      #   and give each an account under access.users; broker password makes the hash
"""

_FEDERATION = """\
# A broker in front of sites and of other brokers. Next: broker check-config {file} --try, broker serve {file}
name: {name}
listen: 127.0.0.1:8080                # others reach it through a proxy that speaks https
store: {name}.db
{access}
sites:                                # a name of yours for each, and where it is
  alba: {{url: "https://broker.alba.example"}}
  # borealis: {{url: "https://exec.borealis.example", credentials: at-borealis}}
# credentials:                        # what signs us in at a site; sent to that site and nowhere else
#   at-borealis: {{username: {name}, password_file: borealis.secret}}
"""

_SITE = """\
# A broker that is a site, and makes the offers. Next: broker check-config {file} --try, broker serve {file}
name: {name}
listen: 127.0.0.1:8081                # others reach it through a proxy that speaks https
store: {name}.db
# contact: hpc@{name}.example
# country: IT                         # ISO 3166-1; users may ask for, or forbid, countries
# storages:                           # what data lies here: requests can require to run where theirs is
#   - {{name: {name}-disk, prefixes: ["https://data.{name}.example/"]}}
{access}
platform:
{platform}
tariff: free                          # or prices: {{currency: EUR, core_hour: 0.03, egress: 0.02}}; none is unknown,
                                      #   and unknown is not free
# capacity: {{cores: 8, memory: 32}}    # what may be filled; {capacity}
# policies: {{ceilings: {{cores: 4, duration: P1D}}, quotas: {{running: 20, offers: 10}}}}
"""

_PLATFORMS = {
    "local": (
        "  kind: local                         # programs and notebooks run on this machine (Linux)\n"
        "  folder: {name}-jobs  # a folder for each job, on a disk of this machine\n"
        "  # isolation: bwrap                  # or not at all; auto, the default: where it works\n",
        "without it, the whole machine",
    ),
    "simulated": (
        "  kind: simulated                     # nothing runs: for rehearsals\n"
        "  run: PT10S                          # how long each pretended run takes\n",
        "without it, as good as everything",
    ),
}


def init(
    context: typer.Context,
    what: Annotated[What, typer.Argument(help="federation or site")],
    file: Annotated[Path | None, typer.Argument(help="where to write it; none: print it")] = None,
    kind: Annotated[str | None, typer.Option(help="of a site: local, simulated, or another adapter's")] = None,
    name: Annotated[str | None, typer.Option(help="the broker's name, as users see it")] = None,
) -> None:
    """Begin a broker's configuration: the smallest that starts, each line explained. A file is never overwritten."""
    if (kind is not None) != (what is What.SITE):
        wanted = f"There are: {', '.join(_kinds())}." if what is What.SITE else "Only a site has a kind."
        raise BadInput("a site's kind is wanted." if what is What.SITE else "--kind is for a site.", remedy=wanted)
    text = _text(what, kind, name or (file.stem if file else _default(what)), str(file or f"{what}.yaml"))
    screen = desks.of(context).screen
    if file is None:
        screen.say(text.rstrip("\n"))
        return
    _write(file, text)
    screen.note(f"Wrote {file}. Next: broker check-config {file} --try")


def _default(what: What) -> str:
    host = "".join(char for char in socket.gethostname().split(".")[0].lower() if char.isascii() and char.isalnum())
    return "my-federation" if what is What.FEDERATION else host or "my-site"


def _text(what: What, kind: str | None, name: str, file: str) -> str:
    if kind is None:
        return _FEDERATION.format(name=name, file=file, access=_ACCESS)
    platform, capacity = _PLATFORMS.get(kind) or (_other(kind), "without it, what the platform says it has")
    lines = platform.format(name=name).rstrip("\n")
    return _SITE.format(name=name, file=file, access=_ACCESS, platform=lines, capacity=capacity)


def _kinds() -> list[str]:
    from broker.plugins import load

    return sorted(kind for kind, plugin in load().items() if plugin.plans)


def _other(kind: str) -> str:
    """A platform by another adapter: its options, the required ones to be filled in."""
    from broker.plugins import load

    if kind not in _kinds():
        raise BadInput(f'"{kind}" is no platform.', remedy=f"There are: {', '.join(_kinds())}.")

    def lines() -> Iterator[str]:
        yield f"  kind: {kind}"
        for option, field in load()[kind].options.model_fields.items():
            mark = "" if field.is_required() else "# "
            yield f"  {mark}{option}:  # {' '.join((field.description or '').split())}".replace("{", "{{").replace(
                "}", "}}"
            )

    return "\n".join(lines())


def _write(file: Path, text: str) -> None:
    """Whole or not at all, and never over another. What a start would refuse is said, and not written; what is still
    to be filled in (another adapter's required options) is left to check-config."""
    from broker.settings import load_settings

    folder = file.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder.")
    descriptor, fresh = tempfile.mkstemp(dir=folder, prefix=".init-", suffix=".yaml")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
        os.chmod(fresh, 0o644)
        load_settings(Path(fresh))
        os.link(fresh, file)  # unlike a rename, it fails where something stands
    except FileExistsError:
        raise BadInput(f"{file} is there already, and is left as it is.", remedy="Name another file.") from None
    except SettingsError as error:
        detail = "small letters, digits, dots and dashes are wanted." if error.key == "name" else error.detail
        raise BadInput(detail, element="--name" if error.key == "name" else error.key) from None
    finally:
        Path(fresh).unlink(missing_ok=True)
