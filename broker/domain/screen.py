"""Which sites a request is worth sending to: what can be known without asking. Imports the domain's models.

Every site left out gets a reason. Whatever a site does not declare is asked, except our own additions: a plain 1.0
site would refuse an unknown kind with 400, and ignore `extras` and `outputs` in silence (design, section 4).
"""

from __future__ import annotations

from datetime import datetime

from broker.domain import kinds
from broker.domain.executables import Workflow
from broker.domain.outcome import Reason
from broker.domain.outputs import reaches
from broker.domain.preferences import Preferences
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile, Registration

_STANDARD = (kinds.DOCKER_CONTAINER, kinds.SINGULARITY_CONTAINER, kinds.JUPYTER_NOTEBOOK)
_NO_WISHES = Preferences()  # once: every site is screened for every request


def unsuitable(request: ExecutionRequest, site: Registration, profile: Profile, now: datetime) -> Reason | None:
    """Why this site need not be asked; None: ask it."""
    return (
        _draining(site, now)
        or _unwanted(request.preferences or _NO_WISHES, site, profile)
        or _unknown_kind(request, site, profile)
        or _unspoken(request, site, profile)
        or _unread(request, site, profile)
        or _too_large(request, profile)
        or _no_extras(request, site, profile)
        or _unwritten(request, site, profile)
    )


def _draining(site: Registration, now: datetime) -> Reason | None:
    if not site.drained or (site.drained_until is not None and site.drained_until <= now):
        return None
    until = f" until {site.drained_until:%Y-%m-%d %H:%M}Z" if site.drained_until else ""
    return Reason(f"{site.name} is draining{until}: it takes nothing new.")


def _unwanted(wishes: Preferences, site: Registration, profile: Profile) -> Reason | None:
    names = {site.name, *profile.origins}
    if wishes.sites_allowed is not None and not names & set(wishes.sites_allowed):
        return Reason("not among the sites you allow.", "preferences.sites_allowed")
    forbidden = set(wishes.sites_forbidden or ())
    # A broker before several sites is still asked while one of them is allowed; its other offers are excluded.
    if site.name in forbidden or (profile.origins and forbidden.issuperset(profile.origins)):
        return Reason("you forbid this site.", "preferences.sites_forbidden")
    return None


def _unknown_kind(request: ExecutionRequest, site: Registration, profile: Profile) -> Reason | None:
    wanted = request.executable.kind
    if profile.executables is None and profile.ours:
        return None
    offered = profile.executables if profile.executables is not None else _STANDARD
    if wanted in offered or "*" in offered:
        return None
    runs = ", ".join(kinds.short(kind) for kind in offered) or "nothing"
    return Reason(f"{site.name} does not run {kinds.short(wanted)}.", "executable.kind", "kind", runs)


def _unspoken(request: ExecutionRequest, site: Registration, profile: Profile) -> Reason | None:
    """A workflow in a language, or a version of it, that is not among those the site names. A site that names none, or
    a language without its versions, is asked."""
    asked = request.executable
    if not isinstance(asked, Workflow) or not asked.type or not profile.workflows:
        return None
    known = [word.casefold().split() for word in profile.workflows]
    versions = {word[1] if len(word) > 1 else "" for word in known if word[0] == asked.type.casefold()}
    if versions and (not asked.version or asked.version.casefold() in versions or "" in versions):
        return None
    element, what = ("executable.version", asked.version) if versions else ("executable.type", "")
    text = f"{site.name} runs no workflows in {' '.join(filter(None, (asked.type, what)))[:50]}."
    return Reason(text, element, "workflows", ", ".join(profile.workflows))


def _unread(request: ExecutionRequest, site: Registration, profile: Profile) -> Reason | None:
    """A local notebook travels as a data URL (RFC 2397), which a site that does not name it would fail to open only
    after the acceptance."""
    location = getattr(request.executable, "location", None)
    if not isinstance(location, str) or location[:5].lower() != "data:" or "data" in profile.reads:
        return None
    text = f"{site.name} does not declare that it reads data URLs, in which a file of yours travels."
    return Reason(text, "executable.location", "reads", "an http or https address")


def _too_large(request: ExecutionRequest, profile: Profile) -> Reason | None:
    asks = (
        ("compute.cores.min", request.cores[0], profile.cores, ""),
        ("compute.memory.min", request.memory[0], profile.memory, " GiB"),
    )
    for element, asked, most, unit in asks:
        if most is not None and asked > most:
            return Reason(f"{asked}{unit} asked; the most is {most}{unit}.", element, "ceiling", f"{most}")
    if profile.duration is not None and request.duration > profile.duration:
        return Reason(
            f"{request.duration} asked; the longest run is {profile.duration}.", "schedule.requested.duration"
        )
    return None


def _no_extras(request: ExecutionRequest, site: Registration, profile: Profile) -> Reason | None:
    for type_, count in request.extras.items():
        most = profile.extras.get(type_, 0)
        if count > most:
            says = f"{site.name} has {most} of them" if most else f"{site.name} does not declare any"
            return Reason(f"{count} × {kinds.short(type_)} asked; {says}.", "compute.extras", "extras", f"{most}")
    return None


def _unwritten(request: ExecutionRequest, site: Registration, profile: Profile) -> Reason | None:
    outputs = request.outputs
    if outputs is None or not outputs.asks:
        return None
    if not profile.ours:
        text = f"{site.name} is a plain 1.0 service: it cannot be told where results go, nor how long they stay."
        return Reason(text, "outputs")
    writes = site.writes or profile.writes
    if outputs.to is None or reaches(writes, outputs.to):
        return None
    says = f"it writes to {', '.join(writes)}" if writes else "it names no place that it writes to"
    text = f"{site.name} cannot write results to {outputs.to[:200]}: {says}."
    return Reason(text, "outputs.to", "writes", ", ".join(writes) or "without outputs.to, and results are fetched")
