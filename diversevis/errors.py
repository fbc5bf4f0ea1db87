"""What a person typed is wrong: said in one paragraph that names the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """A value given by the user cannot be used; the message says which and what to do instead."""


def suggest(name: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """Words that end an error: the names nearest to `name`, or the first `limit` choices."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=4, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(near) + "?"
    shown = ", ".join(choices[:limit])
    return f"Choose from: {shown}" + (", ..." if len(choices) > limit else ".")
