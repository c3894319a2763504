"""The plugin of the kind `shelf`: what an operator may set, and how a planner is made of it. Imports the platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from adapters.planning.compose import plan
from broker.plugins import Plugin, Resources
from broker.ports import Planner
from shelf.platform import ShelfPlatform


class ShelfOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Field(description="where jobs live, on a disk of this machine; made when it is not there")
    tools: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        description="name → the command that runs the tool; a request's arguments come behind"
    )


def make(options: ShelfOptions, resources: Resources) -> Planner:
    """Touches nothing before the first call. Raises SettingsError for site settings that do not hold."""
    return plan(ShelfPlatform(options.folder, options.tools), resources)


plugin = Plugin(options=ShelfOptions, make=make, plans=True)
