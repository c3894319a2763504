"""How a job's processes are shut in, and what to tell people of it. Imports the standard library alone."""

from __future__ import annotations

import os
from pathlib import Path

from adapters.local.layout import HOME, PACKAGES, STORE, TMP, WORK, Spec

OPEN = "processes of one account, no sandbox: programs can read and change what the broker's account can"
OPEN_ROOT = "processes of the root account, no sandbox: programs can read and change everything on this machine"
SHUT = "bubblewrap: programs see the system's own files, read-only, and their own folder; {network}"

# What of the system a Python interpreter needs; what is not there is left out. Not all of /etc: our own settings, with
# their secrets, may lie there.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_ETC = (
    "alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
    "nsswitch.conf", "passwd", "pki", "protocols", "resolv.conf", "services", "ssl",
)  # fmt: skip


def describe(isolation: str, network: bool) -> str:
    if isolation == "bwrap":
        return SHUT.format(network="the network is open" if network else "no network")
    return OPEN_ROOT if os.geteuid() == 0 else OPEN


def wrap(spec: Spec, folder: Path, command: list[str], readable: tuple[str, ...], network: bool) -> list[str]:
    """The command as it is run under the isolation that `spec` names. `readable`: further folders to show, such as
    the interpreter's. Volumes with absolute paths lie there too, inside the sandbox."""
    if spec.isolation != "bwrap":
        return command
    home = str(folder)
    argv = ["bwrap", "--die-with-parent", "--new-session", "--unshare-all", "--proc", "/proc", "--dev", "/dev"]
    argv += ["--share-net"] if network else []
    argv += ["--tmpfs", "/tmp"]  # noqa: S108  the sandbox's own
    shown = (*_SYSTEM, *(f"/etc/{name}" for name in _ETC), *(place for place in readable if place != "/"))
    for place in shown:
        argv += ["--ro-bind-try", place, place]
    # After /tmp and the rest, which may lie above them. The state, the lock and the logs stay out of reach.
    for name in (STORE, WORK, HOME, TMP, PACKAGES):
        argv += ["--bind-try", f"{home}/{name}", f"{home}/{name}"]
    for mount in spec.mounts:
        source = f"{home}/{STORE}/{mount.source}"
        argv += ["--ro-bind" if mount.readonly else "--bind", source, f"/{mount.path}"]
    return [*argv, "--chdir", f"{home}/{WORK}", "--", *command]
