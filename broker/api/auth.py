"""Who is calling over HTTP, and what each route asks of them. Imports services/access, the domain, aiohttp.

A route's policy is enforced before its body is read. Three dangers of browsers are met here, since a page from
anywhere can make one call this server: other origins may not change anything; nobody is anonymous through a proxy;
and a name that merely resolves to this machine (DNS rebinding) does not make its page a neighbour.
"""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from broker.domain import hops
from broker.domain.identity import Caller
from broker.errors import BadInput, NotAllowed, NotSignedIn
from broker.services.access import NOBODY, Access, is_loopback
from broker.services.rights import Readers

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
_SAFE = ("GET", "HEAD", "OPTIONS")


class Policy(StrEnum):
    PUBLIC = "public"  # everybody; credentials are not even looked at
    READER = "reader"  # whoever is signed in, or everybody where reading is public
    USER = "user"  # users, and brokers on their behalf
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


_ROLES = {
    Policy.USER: ("user", "broker"),
    Policy.OPERATOR: ("operator",),
    Policy.ADMINISTRATOR: ("administrator",),
}


class Door:
    """Lets callers in. `public_url`: the origin that our own pages may have besides the Host that was called."""

    def __init__(self, access: Access, readers: Readers, public_url: str | None = None) -> None:
        self._access, self._readers = access, readers
        self._public = urlsplit(public_url).netloc if public_url else None

    async def admit(self, request: web.BaseRequest, policy: Policy) -> Caller:
        """The caller, NOBODY where none is needed. Raises NotSignedIn, NotAllowed, TooMany, BadInput."""
        if policy is Policy.PUBLIC:
            return NOBODY
        self._check_origin(request)
        caller = await self._access.sign_in(request.headers.get(hdrs.AUTHORIZATION), _remote(request))
        if caller is None:
            if policy is Policy.READER and self._readers == "public":
                return NOBODY
            raise NotSignedIn("name and password, or a token, are needed here.", remedy="Run: broker login URL")
        caller = self._acting_for(caller, request)
        roles = _ROLES.get(policy)
        if roles and not any(caller.may(role) for role in roles):
            raise NotAllowed(f"this is for the role {roles[0]}; {caller.account} does not have it.")
        return caller

    def _acting_for(self, caller: Caller, request: web.BaseRequest) -> Caller:
        """The end user behind a broker's call. From anybody else the header says nothing."""
        header = request.headers.get(hops.USER)
        if header is None or "broker" not in caller.roles:
            return caller
        owner = hops.decode_user(header)
        if not all(part.isprintable() for part in (owner.issuer, owner.subject, *owner.groups)):
            raise BadInput("the header holds characters that no name has.", element=hops.USER)
        if owner.issuer == self._access.issuer:
            # Our own users sign in here themselves; another broker must not speak for them.
            raise NotAllowed(
                f'no other broker speaks for the users of "{owner.issuer}".',
                remedy="Where two brokers have the same name, give one another.",
            )
        return Caller(owner, caller.account, frozenset({"user"}))

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Browsers send Origin with whatever can change something; programs send none."""
        origin = request.headers.get(hdrs.ORIGIN)
        if request.method in _SAFE or origin is None:
            return
        if _netloc(origin) not in (request.host, self._public):
            raise NotAllowed("pages of other origins may not change anything here.")


def _remote(request: web.BaseRequest) -> str | None:
    """The caller's address; words that are no address where something stands, or may stand, between."""
    host = _netloc(f"//{request.host}").rpartition("@")[2]
    name = host if host.endswith("]") else host.partition(":")[0] if host.count(":") == 1 else host
    near = is_loopback(name.partition("]")[0]) or not is_loopback(request.remote)
    if near and not any(header in request.headers for header in _FORWARDED):
        return request.remote
    return f"by way of {request.remote}"


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
