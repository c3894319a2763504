"""A real OpenID Connect provider on the loopback (npm's oidc-provider), for tests: up in a second.

Imports `children`. Wants Node.js and the environment `oidc` of `make servers`. What
it is set up as stands in oidc_provider.mjs.
"""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from broker.testing import children

AUDIENCE, OTHER_AUDIENCE = "urn:backend", "urn:elsewhere"
CLIENTS = {"broker": "not-so-secret-4711", "ada": "not-so-secret-4712"}
_SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
_ANSWER_WITHIN = 30.0


class OidcServer:
    """`home`: its environment, in which npm has put node_modules. `seconds`: how long its tokens last."""

    def __init__(self, home: Path, folder: Path, *, seconds: int = 300, clients: Mapping[str, str] = CLIENTS) -> None:
        self._home, self.folder, self.clients = home, folder, dict(clients)
        self.port = children.free_port()
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    def __enter__(self) -> Self:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": self.port,
            "clients": self.clients,
            "audiences": [AUDIENCE, OTHER_AUDIENCE],
            "seconds": self._seconds,
            "scope": "execution:read execution:write",
        }
        command = ["node", str(_SCRIPT), str(self._home / "node_modules"), json.dumps(settings)]
        self._process = children.launch(command, self.folder / "log")
        children.answers(
            f"{self.issuer}/.well-known/openid-configuration", self._process, self.folder / "log", well=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            children.end(self._process)

    def secret_file(self, client: str) -> Path:
        """A file with the client's secret, as settings name one."""
        path = self.folder / f"{client}.secret"
        path.write_text(self.clients[client])
        return path

    def options(self, client: str = "broker", audience: str = AUDIENCE) -> dict[str, Any]:
        """What `adapters.common.tokens.TokenOptions` takes, to sign in as that client."""
        return {
            "oidc": {
                "token_url": self.token_url,
                "client_id": client,
                "client_secret_file": str(self.secret_file(client)),
                "audience": audience,
            }
        }

    def token(self, client: str = "broker", audience: str = AUDIENCE) -> str:
        """A token, as anybody gets one who knows the secret."""
        pair = base64.b64encode(f"{client}:{self.clients[client]}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.token_url,
            urlencode({"grant_type": "client_credentials", "resource": audience}).encode(),
            {"Authorization": f"Basic {pair}"},
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN) as answer:  # noqa: S310 - our own server
            return str(json.load(answer)["access_token"])
