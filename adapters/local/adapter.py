"""The plugin of the kind `local`: the platform of this package under the planner of adapters/planning. Imports both,
and broker's plugins.
"""

from __future__ import annotations

from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.planning.compose import plan
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: LocalOptions, resources: Resources) -> Planner:
    """Nothing is touched before the first call. Raises SettingsError for wrong site settings."""
    return plan(LocalPlatform(options, resources.clock), resources)


plugin = Plugin(options=LocalOptions, make=make, plans=True)
