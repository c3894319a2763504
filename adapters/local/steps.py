"""The children that a supervisor runs one after another for a job: staging, installing, the program itself, writing its
results elsewhere. Imports the standard library alone.

Every child is run with a clean environment: what is passed on is named here, and the job's own is added. A program
works in a folder of its own and finds there

    ./data/<name>      its data; also BROKER_DATA (the folder) and BROKER_DATA_<NAME> (each)
    ./results          what it writes there is kept and handed back; also BROKER_RESULTS
    ./<path>           its volumes, also those asked for at an absolute path; BROKER_VOLUME_<PATH>. In bubblewrap they
                       are at the absolute path as well
    BROKER_CORES, BROKER_MEMORY (bytes), BROKER_SESSION, HOME, TMPDIR, and the request's own variables
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from adapters.local import sandbox
from adapters.local.layout import (
    HOME,
    MARKER,
    OPENED,
    PACKAGES,
    STDERR,
    STDOUT,
    STORE,
    TMP,
    WORK,
    Desk,
    Spec,
    notebook_name,
)

# What a job gets of the environment that its supervisor was started in.
_PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_ACCELERATORS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
UNUSED = 4  # exit code of a server that nobody used for long, as in interactive.py
# Numerical libraries start a thread for each core of the machine unless they are told what was granted.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


SILENCE = 60.0  # seconds that a step which keeps to its time itself may take beyond it


class Step(NamedTuple):
    """`what` names the child in messages, `within` is its limit in seconds, `out` the log that its stdout goes to.
    `inside`: variables for the sandbox that the command makes, and not for the command itself.
    `speaks`: the last line on its stderr is a sentence for the person whose job it is. `token`: of a server that opens;
    `within` counts from then on."""

    what: str
    command: list[str]
    environment: dict[str, str]
    within: float
    out: str = STDERR
    inside: dict[str, str] = {}  # noqa: RUF012  never changed
    speaks: bool = False
    token: str = ""


def preparations(folder: Path, spec: Spec) -> list[Step]:
    """What comes before the program."""
    within = spec.bounds.staging
    steps = [Step("staging", [*_ours("staging"), str(folder)], _base(spec), within, speaks=True)]
    if spec.requirements:
        pip = [spec.python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        pip += ["--no-cache-dir", "--target", str(folder / PACKAGES), "--", *spec.requirements]
        (folder / PACKAGES).mkdir(exist_ok=True)
        steps.append(_shut_in(folder, spec, "installing", pip, _at_home(folder, spec), within))
    return steps


def delivering(folder: Path, spec: Spec, within: float) -> Step:
    """What comes after it, where results are to be written elsewhere. It keeps to its time itself, and says what stood
    in the way; the limit is for when it cannot."""
    command = [*_ours("delivering"), str(folder), str(within)]
    return Step("writing results", command, _base(spec), within + SILENCE, speaks=True)


def _ours(module: str) -> list[str]:
    """The command of a program of this package. Where we run from an archive it is all that there is of us, and what is
    in it knows its parts by their names (adapters/slurm/runner.py)."""
    archive = getattr(__spec__ and __spec__.loader, "archive", None)
    part = [archive, module] if archive else ["-m", f"adapters.local.{module}"]
    return [sys.executable, "-P", *part]


def program(folder: Path, spec: Spec) -> Step:
    """The run proper."""
    if spec.kind == "notebook":
        script = str(Path(__file__).with_name("notebook.py"))
        # Isolated: the script's folder is not to be searched for modules.
        command = [spec.python, "-I", "-u", script, spec.script, f"results/{notebook_name(spec.location)}"]
    elif spec.flow is not None:
        script = str(Path(__file__).with_name("runner.py"))
        command = [spec.python, "-I", "-u", script, spec.flow.main, spec.flow.inputs, "results"]
    else:
        command = [spec.python, "-u", spec.script, *spec.arguments]
    within = spec.bounds.duration
    step = _shut_in(folder, spec, spec.kind, command, _environment(folder, spec), within)
    return step._replace(out=STDOUT, speaks=spec.flow is not None)


def server(folder: Path, spec: Spec, desk: Desk, token: str) -> Step:
    """The run proper of an interactive notebook: a server that tells in OPENED when it can be reached."""
    url = urlsplit(desk.url)
    settings = {
        "host": desk.host,
        "ports": desk.ports,
        "path": url.path,
        "hosts": [url.hostname],
        "idle": desk.idle,
        "opened": str(folder / TMP / OPENED),
    }
    script = str(Path(__file__).with_name("interactive.py"))
    command = [spec.python, "-I", "-u", script, json.dumps(settings)]
    # The token goes by the environment: a command line can be read by everybody on the machine.
    environment = _environment(folder, spec) | {"BROKER_TOKEN": token}
    step = _shut_in(folder, spec, "the notebook's server", command, environment, spec.bounds.duration)
    return step._replace(token=token)


def _shut_in(folder: Path, spec: Spec, what: str, command: list[str], env: dict[str, str], within: float) -> Step:
    if spec.isolation != "bwrap":
        return Step(what, command, env, within)
    wrap = sandbox.wrap_installing if what == "installing" else sandbox.wrap
    return Step(what, wrap(spec, folder, command, sandbox.readable(spec.python)), _base(spec), within, inside=env)


def passed() -> dict[str, str]:
    """What a supervisor, and by it a job, gets of our environment. A program can read the environment of whatever runs
    under its account, so a proxy whose URL holds a password stays out."""
    plain = {name for name in _PROXIES if "@" not in os.environ.get(name, "")}
    return {name: os.environ[name] for name in (*_PASSED, *_ACCELERATORS, *sorted(plain)) if name in os.environ}


def _base(spec: Spec) -> dict[str, str]:
    return passed() | {MARKER: spec.session}


def _at_home(folder: Path, spec: Spec) -> dict[str, str]:
    return _base(spec) | {"HOME": str(folder / HOME), "TMPDIR": str(folder / TMP)}


def _environment(folder: Path, spec: Spec) -> dict[str, str]:
    """Of the program. The request's own variables go before the defaults; those that tell it where things are, and
    the marker, cannot be set."""
    cores = str(max(1, spec.bounds.cores))
    defaults = _at_home(folder, spec) | dict.fromkeys(THREADS, cores) | {"PYTHONUNBUFFERED": "1"}
    asked = dict(spec.environment)
    if spec.requirements:
        asked["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder / PACKAGES), asked.get("PYTHONPATH"))))
    return defaults | asked | _places(folder, spec) | {MARKER: spec.session, "BROKER_CORES": cores}


def _places(folder: Path, spec: Spec) -> dict[str, str]:
    places = {
        "BROKER_DATA": str(folder / STORE / "data"),
        "BROKER_RESULTS": str(folder / spec.results),
        "BROKER_MEMORY": str(spec.bounds.memory),
    }
    places |= {f"BROKER_DATA_{_upper(datum.name)}": str(folder / STORE / datum.place) for datum in spec.data}
    places |= {f"BROKER_VOLUME_{_upper(mount.path)}": str(folder / WORK / mount.path) for mount in spec.mounts}
    return places


def _upper(name: str) -> str:
    """`survey-2.fits` → `SURVEY_2_FITS`."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).upper()
