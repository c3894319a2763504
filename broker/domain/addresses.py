"""Which network addresses somebody may be connected to, and what of a URL may be shown. Pure; imports the standard
library alone, so that the children of a supervisor, which judge addresses too, start fast.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_GLOBAL = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # NAT64: the last 32 bits are an IPv4 address
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    # What Python 3.11 takes for global, and no host on the Internet has: IETF's own, 6to4's relays, IPv6 for documents.
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
)
# Where clouds tell a machine its own secrets, beside the link-local addresses.
_METADATA = ipaddress.ip_address("fd00:ec2::254")


def public(address: str) -> bool:
    """Whether anybody on the Internet could connect to it: none of a private, local, shared, reserved or multicast
    network, nor one that leads to such a network by 6to4, NAT64 or as an IPv4 address in IPv6's clothes."""
    found = _plain(address)
    if isinstance(found, ipaddress.IPv6Address) and found not in _GLOBAL:
        return False
    special = any(found.version == network.version and found in network for network in _SPECIAL)
    return found.is_global and not found.is_multicast and not found.is_reserved and not special


def serves(address: str) -> bool:
    """Whether a site, or data, may be there: anywhere but at link-local addresses, where clouds keep a machine's
    credentials, and at what is no single machine's."""
    found = _plain(address)
    return not (found.is_link_local or found.is_multicast or found.is_unspecified or found == _METADATA)


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that one of IPv6 leads to, where it does."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found
    if found in _TRANSLATED:
        return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.ipv4_mapped or found.sixtofour or found


def bare(url: str) -> str:
    """Without user, query and fragment, which may be somebody's key: others read what is said of it. Of what cannot be
    read as a URL nobody can tell where a key stands, and nothing is shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
