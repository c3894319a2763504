"""Containers by way of Apptainer, where the operator says that the nodes have it. Pure; imports the domain, this
package's options.

The node runs a small Python program of ours in the container's place, which becomes Apptainer: so staging, limits, logs
and results are those of programs. Commands and variables: Apptainer's user guide, https://apptainer.org/docs/user/1.3/
(cli/apptainer_run.html; environment_and_metadata.html; docker_and_oci.html for ENTRYPOINT and CMD).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from urllib.parse import urlsplit

from adapters.slurm.options import SlurmOptions
from broker.domain import kinds
from broker.domain.executables import AbstractExecutable, DockerContainer, PythonProgram, SingularityContainer
from broker.domain.outcome import Reason

KINDS = (kinds.DOCKER_CONTAINER, kinds.SINGULARITY_CONTAINER)
_SCHEMES = ("docker", "oras", "library", "https")

# Variables reach a contained program by this beginning of their names alone.
_LAUNCHER = """import os
wanted, argv = {wanted!r}, {argv!r}
folder = os.path.dirname(os.path.dirname(os.environ["BROKER_DATA"]))
binds = [f"{{folder}}/store", f"{{folder}}/work", f"{{folder}}/tmp:/tmp"]
argv[2:2] = [word for bind in binds for word in ("--bind", bind)]
argv[2:2] = ["--containall", "--home", f"{{folder}}/home", "--pwd", f"{{folder}}/work"]
for name, value in list(os.environ.items()):
    if name.startswith(("BROKER_", "OMP_", "CUDA_")) or name in wanted:
        os.environ["APPTAINERENV_" + name] = value
os.execv(argv[0], argv)
"""


def refuse(executable: AbstractExecutable) -> Iterator[Reason]:
    """Of one of KINDS."""
    if isinstance(executable, SingularityContainer):
        if urlsplit(executable.location or "").scheme not in _SCHEMES:
            nearest = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            yield Reason("no image can be had from there", "executable.location", nearest=nearest)
    elif isinstance(executable, DockerContainer):
        yield from _refuse_docker(executable)


def _refuse_docker(container: DockerContainer) -> Iterator[Reason]:
    if not (container.image and container.image.locations):
        yield Reason("a container needs the location of its image", "executable.image.locations")
    if container.privileged:
        yield Reason("nothing runs privileged here", "executable.privileged", nearest="false")
    if container.network and container.network.ports:
        yield Reason("no ports of jobs are reached from outside here", "executable.network.ports", nearest="none")
    try:
        shlex.split(container.entrypoint or "")
    except ValueError:
        yield Reason("it cannot be split into words", "executable.entrypoint")


def program(executable: AbstractExecutable, options: SlurmOptions, *, accelerated: bool) -> PythonProgram:
    """What runs in the place of a container that `refuse` has nothing against."""
    environment = dict(getattr(executable, "environment", None) or {})
    argv = [str(options.apptainer), *_words(executable)]
    if accelerated:
        argv.insert(2, "--nv")
    source = _LAUNCHER.format(wanted=sorted(environment), argv=argv)
    return PythonProgram(kind=kinds.PYTHON_PROGRAM, source=source, environment=environment)


def _words(executable: AbstractExecutable) -> list[str]:
    """An image's own entrypoint is what `run` runs, with the command as its arguments."""
    if isinstance(executable, DockerContainer):
        image, command = f"docker://{_image(executable)}", list(executable.command or ())
        if executable.entrypoint:
            return ["exec", image, *shlex.split(executable.entrypoint), *command]
        return ["run", image, *command]
    return ["run", str(getattr(executable, "location", ""))]


def _image(container: DockerContainer) -> str:
    """By its digest, where that is stated."""
    image = container.image
    location = (image.locations or ("",))[0] if image else ""
    location = location.partition("://")[2] or location
    return f"{location.partition('@')[0]}@{image.digest}" if image and image.digest else location
