"""What of a URL may be shown. Which addresses are public: tests/catalogues/test_http; a site's: tests/security."""

from __future__ import annotations

import pytest

from broker.domain.addresses import bare, serves


def test_what_may_be_secret_in_a_url_is_left_out() -> None:
    assert bare("https://me:geheim@data.example:8443/a%20b?sig=geheim#x") == "https://data.example:8443/a%20b"
    assert bare("https://me:ge@heim@data.example/a") == "https://data.example/a"
    assert bare("//me:geheim@data.example/a#geheim?geheim") == "//data.example/a"
    assert bare("/\t/me:geheim@data.example/a") == "//data.example/a"
    assert bare("https://[me:geheim") == "an address that is none"
    assert bare("me:geheim@data.example/a?sig=geheim") == "me:geheim@data.example/a"


@pytest.mark.parametrize(
    "text", ["file:///data/x", "rucio:skao/cube.fits", "https://data.example/users/me@home//a@b", "testing:a@b", ""]
)
def test_and_nothing_else_is(text: str) -> None:
    assert bare(text) == text


def test_no_clothes_hide_where_secrets_are() -> None:
    for address in ("64:ff9b::169.254.169.254", "2002:a9fe:a9fe::", "::ffff:169.254.169.254"):
        assert not serves(address)
