"""Which addresses a connection may go to."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.addresses import literal, problem

OWN = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.7",
       "100.64.0.1", "100.127.255.254", "169.254.7.7", "::1", "::", "fd12:3456::1", "fe80::1",
       "fe80::1%eth0", "::ffff:10.0.0.1"]  # fmt: skip
OTHER = ["8.8.8.8", "172.15.0.1", "172.32.0.1", "192.169.0.1", "100.63.255.255", "100.128.0.0",
         "128.0.0.1", "224.0.0.1", "255.255.255.255", "2606:4700::1111", "::ffff:8.8.8.8",
         "64:ff9b::8.8.8.8", "2002:a00:1::", "fec0::1", "ff02::1"]  # fmt: skip


@pytest.mark.parametrize("address", OWN)
def test_clear_text_may_go_to_the_own_network(address):
    assert problem(ip_address(address), is_clear=True) is None


@pytest.mark.parametrize("address", OTHER)
def test_clear_text_goes_no_further(address):
    error = problem(ip_address(address), is_clear=True, host="box")
    assert str(error).startswith("box is at ")
    assert str(error).endswith(
        ", not a loopback, private or link-local address: plain http:// goes no further"
    )
    assert problem(ip_address(address), is_clear=False) is None


@given(st.ip_addresses())
def test_no_address_that_is_reachable_from_everywhere_gets_clear_text(address):
    if address.is_global:
        assert problem(address, is_clear=True) is not None


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254",
                                     "100.100.100.200", "168.63.129.16"])  # fmt: skip
@pytest.mark.parametrize("is_clear", [True, False])
def test_a_metadata_service_is_no_endpoint_encrypted_or_not(address, is_clear):
    error = problem(ip_address(address), is_clear=is_clear)
    assert "the metadata service of a cloud" in str(error) and error.hint is None


def test_only_an_address_is_a_literal():
    assert literal("[::1]") == ip_address("::1") and literal("10.0.0.1") is not None
    assert [literal(name) for name in ("localhost", "127.1", "10.0.0.1.example.com", "")] == [None] * 4
