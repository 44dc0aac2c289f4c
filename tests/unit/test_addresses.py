"""Which addresses and hosts may be reached."""

import ipaddress
import socket

import pytest
from fetching import fetch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fetching.addresses import is_public, literal_address
from pipeline.fetching.outcome import FetchError

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "2002:7f00:1::", "2002:a00:1::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_not_public(address: str) -> None:
    """Loopback, link-local, private, multicast, reserved, metadata; also wrapped in IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    """Addresses of the open internet, mapped and translated ones too."""
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_does_not_open_an_address(address: ipaddress.IPv4Address) -> None:
    """What is not public as IPv4 is not public as IPv4-mapped, 6to4 or NAT64 address."""
    number = int(address)
    wrapped = [(0xFFFF << 32) | number, (0x2002 << 112) | (number << 80), (0x64FF9B << 96) | number]
    if not is_public(str(address)):
        assert not any(is_public(str(ipaddress.IPv6Address(each))) for each in wrapped)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("example.com", None),
        ("1.2.3.4.5", None),
        ("", None),
    ],
)
def test_hosts_that_are_addresses(host: str, address: str | None) -> None:
    """Decimal, hexadecimal, octal and short forms are seen through."""
    assert literal_address(host) == address


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "0177.0.0.1", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "0", "0.0.0.0", "localhost",
        "169.254.169.254", "010.8.8.8", "user:pass@127.0.0.1", "127.0.0.1.", "①27.0.0.1", "127。0。0。1",
    ],
)  # fmt: skip
def test_hosts_that_lead_inside_are_blocked(host: str) -> None:
    """However a private address is written, no connection to it is made."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        with pytest.raises(FetchError) as caught:
            fetch(f"http://{host}:{listener.getsockname()[1]}/secret")
        assert caught.value.kind in ("blocked_address", "unsupported_uri")
        with pytest.raises(TimeoutError):
            listener.accept()
