"""The plugin of the kind `containers`: a container engine under the planner of adapters/planning. Imports both, and
broker's plugins.
"""

from __future__ import annotations

from adapters.containers.options import ContainersOptions
from adapters.containers.queue import ContainerQueue
from adapters.planning.compose import plan
from adapters.planning.queued import QueuedPlatform
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: ContainersOptions, resources: Resources) -> Planner:
    """Nothing is touched before the first call. Raises SettingsError for wrong site settings."""
    site = resources.registration.name or resources.name
    queue = ContainerQueue(options, resources.limits, resources.clock, f"{resources.broker_id}/{site}")
    return plan(QueuedPlatform(queue, resources.calendar, site, resources.clock), resources)


plugin = Plugin(options=ContainersOptions, make=make, plans=True)
