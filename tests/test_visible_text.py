"""Every character of a token leaves a mark, and every space the same one."""

import pytest

from steerlens.visible_text import visible


@pytest.mark.parametrize(
    ("token", "seen", "in_text"),
    [
        ("the", "the", "the"),
        (" the", "·the", " the"),
        ("a b ", "a·b·", "a b "),
        ("  ", "··", "··"),
        ("", "∅", "∅"),
        ("\r\n\t", "␍↵⇥", "␍↵⇥"),
        ("\u200b\x07é", "␣\\x07é", "␣\\x07é"),
    ],
)
def test_tokens_can_be_seen(token: str, seen: str, in_text: str) -> None:
    assert visible(token) == seen
    assert visible(token, spaces=False) == in_text
