"""Basic auth, header by header; over HTTP in ``adapters/test_label_studio_http.py``."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.adapters.edge import BasicAuth


def header(credentials: bytes) -> bytes:
    return b"Basic " + base64.b64encode(credentials)


@given(user=st.text().filter(lambda user: ":" not in user), password=st.text())
def test_the_right_credentials_are_allowed(user: str, password: str) -> None:
    sent = f"{user}:{password}".encode("utf-8", "surrogatepass")
    try:
        known = BasicAuth(user, password)
    except UnicodeEncodeError:
        return  # a surrogate that no environment can hold

    assert known.allows(header(sent))
    assert not known.allows(header(sent + b"x"))
    assert not known.allows(header(sent[:-1]))


@given(st.binary())
def test_no_other_header_is_allowed(sent: bytes) -> None:
    assert not BasicAuth("user", "a password of some length").allows(sent)


@pytest.mark.parametrize("scheme", [b"basic", b"BASIC", b"Basic "])
def test_the_scheme_may_be_spelled_in_any_case(scheme: bytes) -> None:
    sent = scheme + b" " + base64.b64encode(b"u:p")

    assert BasicAuth("u", "p").allows(sent)
