"""The plugin of the kind `slurm`: the queue of this package under the planner of adapters/planning. Imports both, and
broker's plugins.
"""

from __future__ import annotations

from pathlib import Path

from adapters.common.tokens import Token, TokenOptions, Tokens, tokens
from adapters.planning.compose import plan
from adapters.planning.queued import QueuedPlatform
from adapters.slurm.client import Client, Signer
from adapters.slurm.options import SlurmOptions
from adapters.slurm.queue import SlurmQueue
from adapters.slurm.signing import Signed
from broker.domain.deadline import Deadline
from broker.errors import SettingsError
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: SlurmOptions, resources: Resources) -> Planner:
    """Nothing is touched before the first call. Raises SettingsError for wrong site settings."""
    site = resources.registration.name or resources.name
    queue = make_queue(options, resources, site)
    return plan(QueuedPlatform(queue, resources.calendar, site, resources.clock), resources)


def make_queue(options: SlurmOptions, resources: Resources, site: str) -> SlurmQueue:
    url = options.url or resources.registration.url
    clock = resources.clock
    client = Client(resources.http, url or "", clock, api=options.api, cap_bytes=options.answer_cap_bytes)
    return SlurmQueue(options, client, _Signers(options, resources, client.place), site, resources.broker_id, clock)


class _Signers:
    """Of each user one, so that each token is renewed for all calls at once."""

    def __init__(self, options: SlurmOptions, resources: Resources, place: str) -> None:
        self._options, self._resources, self._place = options, resources, place
        self._known: dict[str, Signer] = {}
        self._own = {who.user: who.token for who in options.users.values() if who.user and who.token}
        self._site = None if options.key_file else self._of_the_site()

    def of(self, user: str) -> Signer:
        if user not in self._known:
            self._known[user] = Signer(user, self._tokens(user))
        return self._known[user]

    async def close(self) -> None:
        for signer in self._known.values():
            await signer.tokens.close()

    def _tokens(self, user: str) -> Tokens:
        """A user's own; else signed for that user; else the site's, which Slurm then has to take for others too."""
        options, clock = self._options, self._resources.clock
        if (own := self._own.get(user)) is not None:
            return self._got(own)
        if self._site is not None:
            return self._site
        lifetime = options.token_lifetime.total_seconds()
        return Tokens(Signed(options.key_file or Path(), user, lifetime, clock), clock, self._place)

    def _of_the_site(self) -> Tokens:
        if self._options.token is not None:
            return self._got(self._options.token)
        credentials = self._resources.credentials
        if credentials is None or not credentials.token:
            raise SettingsError(
                "nothing says where tokens for slurmrestd come from.",
                key="options.token",
                remedy="Write token: {token_command: [scontrol, token]}, a token_file, oidc, or key_file.",
            )
        return Tokens(_Given(credentials.token), self._resources.clock, self._place)

    def _got(self, options: TokenOptions) -> Tokens:
        return tokens(options, self._resources.http, self._resources.clock, self._place)


class _Given:
    """The token of the site's credentials; nobody renews it."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def get(self, deadline: Deadline) -> Token:
        return Token(self._text, None)


plugin = Plugin(options=SlurmOptions, make=make, plans=True)
