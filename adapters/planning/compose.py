"""From a bare platform and what the broker hands to a plugin, a Planner. Imports the plugins and the planner."""

from __future__ import annotations

from adapters.planning.planner import PlanningPlanner
from adapters.planning.platform import Platform
from adapters.planning.settings import site_settings
from broker.plugins import Resources


def plan(platform: Platform, resources: Resources) -> PlanningPlanner:
    """What a platform's plugin calls in `make`. The registration's country holds where the site's settings name none;
    its storages are the registry's to add. Raises SettingsError for site settings that do not hold."""
    settings, registration = site_settings(resources.site_settings), resources.registration
    settings = settings.model_copy(update={"country": settings.country or registration.country})
    return PlanningPlanner(
        platform,
        resources.calendar,
        resources.limits,
        resources.clock,
        settings,
        registration.name or resources.name,
        resources.currency,
    )
