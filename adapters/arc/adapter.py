"""The plugin of the kind `arc`: the queue of this package under the planner of adapters/planning. Imports both, and
broker's plugins.
"""

from __future__ import annotations

from adapters.arc.client import Account
from adapters.arc.options import AccountOptions, ArcOptions
from adapters.arc.queue import ArcQueue
from adapters.planning.compose import plan
from adapters.planning.queued import QueuedPlatform
from broker.plugins import Credentials, Plugin, Resources
from broker.ports import Planner


def make(options: ArcOptions, resources: Resources) -> Planner:
    """Nothing is touched before the first call. Raises SettingsError for wrong site settings, or an address that is
    none."""
    return plan(platform(options, resources), resources)


def platform(options: ArcOptions, resources: Resources) -> QueuedPlatform:
    def account(who: AccountOptions, credentials: Credentials | None = None) -> Account:
        return Account(options.url, options.ca, who, resources.http, resources.clock, credentials)

    own = account(options, resources.credentials)
    users = {name: account(who) for name, who in options.users.items()}
    queue = ArcQueue(options, own, users, resources.clock)
    site = resources.registration.name or resources.name
    return QueuedPlatform(queue, resources.calendar, site, resources.clock)


plugin = Plugin(options=ArcOptions, make=make, plans=True)
