"""The plugin of the kind `local`: the platform of this package under the planner of adapters/planning. Imports both,
and broker's plugins.
"""

from __future__ import annotations

from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.planning.planner import PlanningPlanner
from adapters.planning.settings import site_settings
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: LocalOptions, resources: Resources) -> Planner:
    """Nothing is touched before the first call. Raises SettingsError for wrong site settings."""
    settings = site_settings(resources.site_settings)
    platform = LocalPlatform(options, resources.clock)
    return PlanningPlanner(
        platform,
        resources.calendar,
        resources.limits,
        resources.clock,
        settings,
        resources.name,
        resources.currency,
    )


plugin = Plugin(options=LocalOptions, make=make, plans=True)
