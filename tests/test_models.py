"""Value types of the API, as far as the client's tests do not show them."""

from __future__ import annotations

import pytest

from txgearman.models import decode_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("größe", "größe"), ("größe".encode(), "größe"), (b"a\xff\0b", "a\\xff\0b"), (b"", "")],
)
def test_text_is_decoded_with_escapes(text: str | bytes, expected: str) -> None:
    assert decode_text(text) == expected
