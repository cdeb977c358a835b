"""Tokens as text that can be seen: a sign for every character that would leave no mark on a page."""

SPACE = "·"
NOTHING = "∅"
"""A token without any text."""
SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\ufeff": "␣", "\u200b": "␣"}
"""␣ stands for what has no width."""


def visible(token: str, spaces: bool = True) -> str:
    """A token with signs for line ends, tabs, spaces and nothing, and escapes for what else cannot be printed.

    Args:
        token: its text on its own.
        spaces: whether every space is a middle dot. False is for running text, where a space is seen between letters: only a
            token of nothing but spaces becomes dots.
    """
    if not token.strip(" "):
        return SPACE * len(token) or NOTHING
    signs = SIGNS | {" ": SPACE} if spaces else SIGNS
    return "".join(signs.get(letter, letter if letter.isprintable() else f"\\x{ord(letter):02x}") for letter in token)
