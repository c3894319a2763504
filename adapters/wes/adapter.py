"""The plugin of the kind `wes`: a GA4GH WES server under the planner of adapters/planning. Imports both, and broker's
plugins.
"""

from __future__ import annotations

from adapters.planning.compose import plan
from adapters.planning.queued import QueuedPlatform
from adapters.wes.options import WesOptions
from adapters.wes.queue import WesQueue
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: WesOptions, resources: Resources) -> Planner:
    """Nothing is asked before the first call. Raises SettingsError for wrong settings."""
    site = resources.registration.name or resources.name
    queue = WesQueue(options, resources)
    return plan(QueuedPlatform(queue, resources.calendar, site, resources.clock), resources)


plugin = Plugin(options=WesOptions, make=make, plans=True)
