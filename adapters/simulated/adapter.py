"""The kind `simulated`: a pretended platform behind a real planner. Imports adapters/planning and the plugins."""

from __future__ import annotations

from adapters.planning.compose import plan
from adapters.simulated.options import SimulatedOptions
from adapters.simulated.platform import SimulatedPlatform
from broker.plugins import Plugin, Resources
from broker.ports import Planner


def make(options: SimulatedOptions, resources: Resources) -> Planner:
    """Raises SettingsError for site settings that do not hold."""
    site = resources.registration.name or resources.name
    return plan(SimulatedPlatform(options, resources.calendar, resources.clock, site), resources)


plugin = Plugin(options=SimulatedOptions, make=make, plans=True)
