"""Which network addresses http(s) may reach: decided on the address that is connected to, never on its name alone."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.fetching.threads import DaemonPool

Lookup = Callable[[str, int], Sequence[tuple[Any, Any, Any, Any, Any]]]
"""(host, port) → entries as of `socket.getaddrinfo`."""

_BLOCKED = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # metadata and DNS of Azure, at a public address
            "192.88.99.0/24",  # relays of 6to4
            "192.0.0.0/24",  # of protocols, with metadata of Oracle; older Pythons know a part of it only
            "::/96",  # IPv4-compatible, without use
            "64:ff9b:1::/48",  # NAT64 of one's own network
            "fec0::/10",  # site-local, as it once was
        ),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class BlockedAddressError(OSError):
    """A connection to an address that may not be reached was about to be made."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, and so are all those that are wrapped in it.

    Not public: loopback, link-local (metadata services), private, shared, multicast, reserved, unspecified, and
    IPv4-mapped, 6to4, Teredo and NAT64 addresses that stand for one of these. Raises ValueError for no IP address.
    """
    parsed = ipaddress.ip_address(address)
    return all(_is_open(each) for each in (parsed, *_wrapped(parsed)))


def _is_open(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.teredo or address in _NAT64):
        return address.scope_id is None  # what is wrapped in it decides
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_link_local or address.is_loopback)
        and not any(address in network for network in _BLOCKED if network.version == address.version)
        and not (isinstance(address, IPv6Address) and address.scope_id)
    )


def _wrapped(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


def literal_address(host: str) -> str | None:
    """The IP address that a host is written as, also in decimal (2130706433), octal and short forms; None: a name."""
    host = host.strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError, ValueError):
        return None


def guarded_socket(address: tuple[Any, Any, Any, Any, Any]) -> socket.socket:
    """A socket for a connection to a public address: what aiohttp's connector calls with each address it tries."""
    family, kind, protocol, _, target = address
    if not is_public(target[0]):
        raise BlockedAddressError(f"{target[0]} is no public address")
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made


class Resolver(AbstractResolver):
    """Addresses of hosts, looked up in threads that may hang; public ones only, unless `all_addresses`."""

    def __init__(self, lookup: Lookup, pool: DaemonPool, timeout_s: float, all_addresses: bool) -> None:
        self._lookup, self._pool, self._timeout_s, self._all = lookup, pool, timeout_s, all_addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As aiohttp calls it. Raises BlockedAddressError if the host has private addresses only, else OSError."""
        try:
            entries = await self._pool.run(self._timeout_s, self._lookup, host, port)
        except (TimeoutError, UnicodeError) as error:
            raise OSError(
                None, "no answer of the name server" if isinstance(error, TimeoutError) else str(error)
            ) from error
        found = [_result(host, entry) for entry in entries if family in (socket.AF_UNSPEC, entry[0])]
        allowed = found if self._all else self._public(found)
        if found and not allowed:
            raise BlockedAddressError(f"{found[0]['host']} is no public address")
        if not found:
            raise OSError(None, "the name has no address")
        return allowed

    def _public(self, found: list[ResolveResult]) -> list[ResolveResult]:
        return [result for result in found if is_public(result["host"])]

    async def close(self) -> None:
        """Nothing to close: the threads are the pool's."""


def system_lookup(host: str, port: int) -> Sequence[tuple[Any, Any, Any, Any, Any]]:
    """The system's name service."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _result(host: str, entry: tuple[Any, Any, Any, Any, Any]) -> ResolveResult:
    family, _, protocol, _, address = entry
    target = (
        f"{address[0]}%{address[3]}" if family == socket.AF_INET6 and len(address) > 3 and address[3] else address[0]
    )
    return ResolveResult(
        hostname=host,
        host=target,
        port=address[1],
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
