"""A real registry of images on the loopback, for tests: Debian's docker-registry, open or with one account.

Imports `children`. Everything here blocks, and every wait is bounded.
"""

from __future__ import annotations

import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

from broker.testing import children

LOGIN = ("broker", "not-so-secret-4711")
# Of that password; the registry takes bcrypt alone.
_HTPASSWD = "broker:$2b$05$abcdefghijklmnopqrstuuT6KlUXZZzt8FPw8gExp17BolAcxqQ7G\n"
_SETTINGS = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: "{host}"}}
"""
_PRIVATE = "auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"
_MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


class Registry:
    """`host`: what the names of its images begin with."""

    def __init__(self, host: str, private: bool) -> None:
        self.host, self._private = host, private

    def digest(self, path: str, tag: str = "latest") -> str:
        """Of the manifest that it has by that tag."""
        return str(self._asked(f"{path}/manifests/{tag}")["Docker-Content-Digest"])

    def up(self) -> bool:
        try:
            return self._asked("")["Docker-Distribution-Api-Version"] == "registry/2.0"
        except OSError:
            return False

    def _asked(self, path: str) -> Message:
        """The headers of an answer."""
        request = urllib.request.Request(f"http://{self.host}/v2/{path}", headers={"Accept": _MANIFESTS})
        if self._private:
            request.add_header("Authorization", f"Basic {b64encode(':'.join(LOGIN).encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            headers: Message = answer.headers
            return headers


@contextmanager
def registry(folder: Path, *, private: bool = False) -> Iterator[Registry]:
    """Up, and empty. `private`: LOGIN is the one account."""
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{children.free_port()}"
    (folder / "htpasswd").write_text(_HTPASSWD)
    settings = (_SETTINGS + (_PRIVATE if private else "")).format(folder=folder, host=host)
    (folder / "settings.yml").write_text(settings)
    process = children.launch(["docker-registry", "serve", str(folder / "settings.yml")], folder / "log")
    try:
        made = Registry(host, private)
        children.wait_for(made.up, "the registry is up", (folder / "log").read_text)
        yield made
    finally:
        children.end(process)
