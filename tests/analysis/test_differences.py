"""Answers compared word by word."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.differences import Part, differences


def test_parts_by_hand():
    assert differences("She was born in Taipei, Taiwan.", "She was not born in Lima, Taiwan.") == (
        Part("same", "She was"), Part("added", " not"), Part("same", " born in"), Part("removed", " Taipei,"),
        Part("added", " Lima,"), Part("same", " Taiwan."),
    )  # fmt: skip


def test_nothing_is_marked_where_nothing_is_alike():
    assert differences("The author's full name is Hsiao Yun-Hwa.", "no no no no") is None
    assert differences("", "something") is None and differences("something", "  ") is None


@given(st.text(alphabet="ab c\n<", max_size=40), st.text(alphabet="ab c\n<", max_size=40))
def test_parts_make_both_answers_again(before, after):
    parts = differences(before, after) or ()
    for kept, text in (("added", after), ("removed", before)):
        words = "".join(part.text for part in parts if part.kind in ("same", kept)).split()
        assert not parts or words == text.split()
