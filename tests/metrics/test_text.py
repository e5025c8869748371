import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.text import rouge_1_recall, rouge_l_recall, token_entropy


@pytest.mark.parametrize(
    ("output", "truth", "rouge_1", "rouge_l"),
    [
        ("a b c d", "a b c d", 1.0, 1.0),
        ("d c b a", "a b c d", 1.0, 0.25),  # same words, longest common subsequence of one
        ("a b x y z", "a b c d", 0.5, 0.5),  # recall: extra words of the output cost nothing
        ("a b", "a b x y z", 0.4, 0.4),
        ("the cats", "the cat", 1.0, 1.0),  # the stemmer drops the plural
        ("Paris, France.", "paris", 1.0, 1.0),  # case and punctuation do not count
        ("", "a b", 0.0, 0.0),
        ("a b", "", 0.0, 0.0),
    ],
)
def test_rouge_recall(output, truth, rouge_1, rouge_l):
    assert rouge_1_recall(output, truth) == rouge_1
    assert rouge_l_recall(output, truth) == rouge_l


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0.0),
        (["a"], 0.0),
        (["a", "a", "a"], 0.0),
        (["a", "b"], 1.0),
        (["a", "a", "b", "b"], 0.5),  # one bit over log2(4)
        (["a", "b", "a", "c"], 0.75),  # 1/2 + 2 * 1/4 * 2 bits over log2(4)
        (["a", "a", "b"], (math.log2(3) - 2 / 3) / math.log2(3)),
    ],
)
def test_token_entropy(tokens, expected):
    assert token_entropy(tokens) == pytest.approx(expected, rel=1e-14, abs=0)


@given(st.lists(st.sampled_from("abcdef"), min_size=2), st.randoms())
def test_token_entropy_depends_on_counts_only(tokens, random):
    shuffled = random.sample(tokens, len(tokens))
    assert token_entropy(shuffled) == token_entropy(tokens)
    assert 0 <= token_entropy(tokens) <= 1 + 1e-12
    assert (token_entropy(tokens) == 0) == (len(set(tokens)) == 1)
