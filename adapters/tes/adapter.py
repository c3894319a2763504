"""The plugin of the kind `tes`: a GA4GH TES server under the planner of adapters/planning. Imports both, and broker's
plugins.
"""

from __future__ import annotations

from adapters.planning.compose import plan
from adapters.planning.queued import QueuedPlatform
from adapters.tes.options import TesOptions
from adapters.tes.queue import TesQueue
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: TesOptions, resources: Resources) -> Planner:
    """Nothing is asked before the first call. Raises SettingsError for settings that do not hold."""
    queue = TesQueue(options, resources)
    site = resources.registration.name or resources.name
    return plan(QueuedPlatform(queue, resources.calendar, site, resources.clock), resources)


plugin = Plugin(options=TesOptions, make=make, plans=True)
