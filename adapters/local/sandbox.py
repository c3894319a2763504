"""How a job's processes are shut in, and what to tell people of it. Imports the standard library alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from adapters.local.layout import HOME, PACKAGES, STORE, TMP, WORK, Spec

OPEN = "processes of one account, no sandbox: programs can read and change what the broker's account can"
OPEN_ROOT = "processes of the root account, no sandbox: programs can read and change everything on this machine"
SHUT = (
    "bubblewrap: programs see the system's own files, read-only, and their own folder, and no other processes; "
    "{network}; memory as granted, at most {processes} processes"
)
_NETWORK: Mapping[bool | str, str] = MappingProxyType(
    {True: "the network is open", False: "no network", "asked": "no network unless asked"}
)

TRIAL = 20.0  # seconds
_LONGEST = 200  # characters of what bubblewrap says

# What of the system a Python interpreter needs; what is not there is left out. Not all of /etc: our own settings, with
# their secrets, may lie there.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_ETC = (
    "alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
    "nsswitch.conf", "passwd", "pki", "protocols", "resolv.conf", "services", "ssl",
)  # fmt: skip


def describe(isolation: str, network: bool | str, processes: int) -> str:
    if isolation == "bwrap":
        return SHUT.format(network=_NETWORK[network], processes=processes)
    return OPEN_ROOT if os.geteuid() == 0 else OPEN


def wrap(spec: Spec, folder: Path, command: list[str], readable: tuple[str, ...]) -> list[str]:
    """The program's command in bubblewrap. `readable`: further folders to show, such as the interpreter's. Volumes
    with absolute paths lie there too."""
    argv = _walls(folder, readable, spec.network, (STORE, WORK, HOME, TMP, PACKAGES))
    for mount in spec.mounts:
        source = f"{folder}/{STORE}/{mount.source}"
        argv += ["--ro-bind" if mount.readonly else "--bind", source, f"/{mount.path}"]
    return [*argv, "--chdir", f"{folder}/{WORK}", "--", *command]


def wrap_installing(spec: Spec, folder: Path, command: list[str], readable: tuple[str, ...]) -> list[str]:
    """What installs packages runs their code. It sees nothing that the program's sandbox is made from afterwards: a
    link that it puts in the place of a volume would be followed there."""
    return [*_walls(folder, readable, True, (HOME, TMP, PACKAGES)), "--chdir", f"{folder}/{HOME}", "--", *command]


def _walls(folder: Path, readable: tuple[str, ...], network: bool, own: tuple[str, ...]) -> list[str]:
    # Of root it would keep the capabilities, and with them a program could make the system writable again.
    argv = ["bwrap", "--die-with-parent", "--new-session", "--unshare-all", "--cap-drop", "ALL"]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    argv += ["--share-net"] if network else []
    argv += ["--tmpfs", "/tmp"]  # noqa: S108  the sandbox's own
    shown = (*_SYSTEM, *(f"/etc/{name}" for name in _ETC), *(place for place in readable if place != "/"))
    for place in shown:
        argv += ["--ro-bind-try", place, place]
    # After /tmp and the rest, which may lie above them. The state, the lock and the logs stay out of reach.
    for name in own:
        argv += ["--bind-try", f"{folder}/{name}", f"{folder}/{name}"]
    return argv


def trouble(python: str) -> str:
    """Why programs cannot be shut in here, in a few words; empty: they can. It is tried, with the walls of a job: many
    a container has bubblewrap and forbids what it does. Raises OSError where nobody can tell just now."""
    command = [python, "-I", "-c", ""]
    with TemporaryDirectory() as folder:
        argv = [*_walls(Path(folder), readable(python), False, ()), "--", *command]
        try:
            tried = subprocess.run(  # noqa: S603  the operator's interpreter
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL, check=False
            )
        except (FileNotFoundError, PermissionError):
            return "it is not installed"
        except subprocess.TimeoutExpired:
            raise OSError(f"bubblewrap did not end within {TRIAL:g} s") from None
    words = tried.stderr.decode(errors="replace").split()
    return " ".join(words)[:_LONGEST] or f"it ended with {tried.returncode}" if tried.returncode else ""


def readable(python: str) -> tuple[str, ...]:
    """What an interpreter and our own scripts need of the system besides."""
    paths = (Path(python), Path(python).resolve(), Path(__file__).resolve())
    return tuple(sorted({str(path.parent.parent) for path in paths}))


def told(variables: Mapping[str, str]) -> int:
    """A descriptor to read bubblewrap's arguments from that set `variables` inside. They are not its own environment:
    LD_PRELOAD and PATH would work on bubblewrap itself, outside; nor its command line, which all users can read."""
    descriptor = os.memfd_create("environment")
    words = (word for name, value in variables.items() for word in ("--setenv", name, value))
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def telling(command: list[str], descriptor: int) -> list[str]:
    """A command of `wrap` that reads what was `told`."""
    return [command[0], "--args", str(descriptor), *command[1:]]
