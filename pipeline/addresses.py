"""Which addresses a connection may go to: what is sent in clear text stays in the own network.

The address counts, not the name: a name may point to the Internet, or to another address a moment
later. A job file is judged without the network, so only an address in its URL counts there; the
client judges the addresses of a name when it looks them up, and each one again when it opens a
socket for it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_OWN_NETWORK = tuple(
    ip_network(network)
    for network in (
        *("127.0.0.0/8", "::1/128"),  # loopback
        *("0.0.0.0/32", "::/128"),  # a server prints it for "every address of this machine"
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # private
        *("169.254.0.0/16", "fe80::/10"),  # link-local
        "100.64.0.0/10",  # shared: networks over a VPN, and those of a carrier
    )
)
"""Source: RFC 1122, 1918, 3927, 4193, 4291 and 6598."""

_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",  # nearly every cloud
        *("169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"),  # AWS
        "fd20:ce::254",  # Google Cloud
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba Cloud
    )
)
"""Services that give credentials of a virtual machine to every program on it."""

_CLEAR_TEXT = "https://, or `endpoint.allow_http = true` if everybody on the way may read the texts"


class AddressError(OSError):
    """A connection to an address that is not permitted. Its text names host and address."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that the host of a URL is; None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """True if the host of a URL is this machine; False for short forms (`127.1`), which parsers
    read differently."""
    address = literal(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def problem(
    address: IPv4Address | IPv6Address, *, is_clear: bool, host: str = ""
) -> AddressError | None:
    """What is wrong with a connection to the address, of this host if it is a name; None: nothing.

    `is_clear`: texts or credentials are sent without encryption.
    """
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address))  # without a network card's name
    where = f"{host} is at {address}," if host else f"{address} is"
    if address in _METADATA:
        return AddressError(f"{where} the metadata service of a cloud, which is no endpoint")
    is_own = any(address in net for net in _OWN_NETWORK if net.version == address.version)
    if is_clear and not is_own:
        return AddressError(
            f"{where} not a loopback, private or link-local address: plain http:// goes no further",
            _CLEAR_TEXT,
        )
    return None
