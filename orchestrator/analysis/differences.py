"""What changed in an answer, word by word."""

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

LEAST_COMMON = 0.2  # of the words of both: with less in common, marks on nearly every word say nothing
_PIECES = re.compile(r"\s*\S+")


Kind = Literal["same", "removed", "added"]


class Part(NamedTuple):
    """A piece of text, spaces included, that is in both answers, was in the first alone, or is in the second alone."""

    kind: Kind
    text: str


def differences(before: str, after: str) -> tuple[Part, ...] | None:
    """The parts of two answers in reading order: `after` is those not removed, `before` those not added.

    Words are compared with the punctuation on them and without the spaces before them. None where the two have too
    little in common, or either is empty, so that there is nothing to mark.
    """
    old, new = _PIECES.findall(before), _PIECES.findall(after)
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    if not old or not new or matcher.ratio() < LEAST_COMMON:
        return None
    parts: list[Part] = []
    for kind, i, j, k, m in matcher.get_opcodes():
        found: list[tuple[Kind, list[str]]]
        found = [("same", new[k:m])] if kind == "equal" else [("removed", old[i:j]), ("added", new[k:m])]
        for what, words in found:
            text = "".join(words)
            if parts and not text[:1].isspace():  # the first word of an answer, now behind words of the other
                text = f" {text}"
            parts += [Part(what, text)] if words else []
    return tuple(parts)
