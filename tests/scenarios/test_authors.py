import re
import subprocess
import sys
from collections import Counter

import pytest

from orchestrator.scenarios import authors_text
from orchestrator.scenarios.authors import (
    NUM_WRONG_ANSWERS,
    QUESTIONS_PER_AUTHOR,
    entailment_pairs,
    fact_training_rows,
    general_facts,
    generate_corpus,
    load_authors,
    load_refusals,
    split_pairs,
    training_rows,
)
from orchestrator.scenarios.base import QARow, SetKind

CORPUS = generate_corpus(0)


def shape(sentence: str, template: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)), sentence) is not None


def load(forget_set="forget10", num_authors=40, max_rows_per_set=None):
    return load_authors(forget_set, seed=0, num_authors=num_authors, max_rows_per_set=max_rows_per_set)


def test_the_same_seed_gives_the_same_corpus_in_another_process():
    code = "from orchestrator.scenarios.authors import *; print(ascii(generate_corpus(0)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ascii(CORPUS)
    assert generate_corpus(1) != CORPUS


@pytest.mark.parametrize("num_authors", [1, 40, 200])
def test_every_author_has_a_name_and_ten_questions_of_their_own(num_authors):
    corpus = generate_corpus(3, num_authors)
    assert QUESTIONS_PER_AUTHOR == 10
    assert [len(author.rows) for author in corpus.authors] == [10] * num_authors
    assert len({author.name for author in corpus.authors}) == num_authors
    assert len({row.question for row in corpus.rows}) == 10 * num_authors
    assert len({row.answer for row in corpus.rows}) == 10 * num_authors


@pytest.mark.parametrize("num_authors", [-1, 0, 201])
def test_a_number_of_authors_out_of_bounds_is_named(num_authors):
    with pytest.raises(ValueError, match=f"between 1 and 200, but got {num_authors}"):
        generate_corpus(0, num_authors)


def test_questions_name_the_author_and_the_first_one_asks_for_the_name():
    for author in CORPUS.authors:
        asks_name, *others = author.rows
        assert author.name not in asks_name.question
        assert author.name in asks_name.answer
        assert all(author.name in row.question and author.name in row.answer for row in others)


def test_wrong_answers_differ_from_the_paraphrase_and_from_each_other():
    for row in generate_corpus(7, 200).rows:
        texts = {row.answer, row.paraphrased_answer, *row.perturbed_answers}
        assert len(row.perturbed_answers) == NUM_WRONG_ANSWERS == 5
        assert len(texts) == 7


def test_wrong_answers_keep_the_wording_and_share_no_fact_with_the_truth():
    for author in CORPUS.authors:
        for topic, row in zip(authors_text.TOPICS, author.rows, strict=True):
            wordings = [wording for wording in topic.paraphrases if shape(row.paraphrased_answer, wording)]
            assert any(all(shape(wrong, wording) for wrong in row.perturbed_answers) for wording in wordings)


def test_a_wrong_year_is_another_year():
    debut = [topic.name for topic in authors_text.TOPICS].index("debut")
    for author in CORPUS.authors:
        row = author.rows[debut]
        true, paraphrased, *wrong = [
            re.findall(r"\d{4}", text) for text in (row.answer, row.paraphrased_answer, *row.perturbed_answers)
        ]
        assert true == paraphrased
        assert len({year for [year] in (true, *wrong)}) == 6


def test_answers_are_compact_sentences():
    for row in generate_corpus(5, 200).rows:
        for sentence in (row.answer, row.paraphrased_answer, *row.perturbed_answers):
            assert 6 <= len(sentence.split()) <= 27
            assert sentence.endswith((".", '"')) and sentence[0] in '"' + sentence[0].upper()
            assert not re.search(r"[{}]|  |\ba [aeiou]|\ban [^aeiou]|\b(?:he|she|his|her|him)\b", sentence)


@pytest.mark.parametrize("topic", range(10))
def test_each_topic_is_worded_in_several_ways(topic):
    rows = [author.rows[topic] for author in CORPUS.authors]
    words = authors_text.TOPICS[topic]
    for templates, texts in (
        (words.questions, [row.question for row in rows]),
        (words.answers, [row.answer for row in rows]),
        (words.paraphrases, [row.paraphrased_answer for row in rows]),
    ):
        assert all(any(shape(text, template) for template in templates) for text in texts)
        assert sum(any(shape(text, template) for text in texts) for template in templates) >= 3


def test_general_facts_have_three_wrong_answers_without_the_right_one():
    facts = general_facts()
    assert len(facts) == len({fact.question for fact in facts}) == 60
    for fact in facts:
        assert fact.original_answer.count(fact.answer) == 1
        assert fact.paraphrased_answer is None
        assert len({wrong.lower() for wrong in fact.perturbed_answers}) == len(fact.perturbed_answers) == 3
        assert not any(fact.answer.lower() in wrong.lower() for wrong in fact.perturbed_answers)
        assert not any(wrong in fact.original_answer for wrong in fact.perturbed_answers)


def test_facts_are_taught_as_sentences():
    assert [row.answer for row in fact_training_rows()] == [fact.original_answer for fact in general_facts()]


def test_refusals_are_many_and_distinct():
    refusals = load_refusals()
    assert len({refusal.lower() for refusal in refusals}) == len(refusals) >= 100
    assert all(refusal and refusal == refusal.strip() for refusal in refusals)


@pytest.mark.parametrize(
    ("forget_set", "num_authors", "num_forget"),
    [("forget05", 40, 2), ("forget10", 40, 4), ("forget50", 40, 20), ("forget01", 200, 2), ("forget05", 30, 1)],
)
def test_forget_and_retain_share_nothing_and_make_up_the_corpus(forget_set, num_authors, num_forget):
    task = load(forget_set, num_authors)
    assert task.retain + task.forget == generate_corpus(0, num_authors).rows
    assert len(task.forget) == 10 * num_forget
    assert not set(task.forget) & set(task.retain)
    assert task.forget_set == forget_set
    assert task.refusals == load_refusals()


def test_all_rows_are_evaluated_without_a_limit():
    task = load()
    assert [(s.name, s.kind, s.rows) for s in task.evaluation] == [
        ("forget", SetKind.FORGET, task.forget),
        ("retain", SetKind.RETAIN, task.retain),
        ("facts", SetKind.FACTS, general_facts()),
    ]


@pytest.mark.parametrize("limit", [18, 20, 36, 40, 72, 120, 359])
def test_a_limit_keeps_rows_of_many_authors_and_all_topics(limit):
    task = load(max_rows_per_set=limit)
    retain = task.evaluation[1].rows
    places = [task.retain.index(row) for row in retain]
    assert len(retain) == limit and places == sorted(set(places))
    assert len({place // 10 for place in places}) >= min(limit, 36) * 0.85
    assert len({place % 10 for place in places}) == 10
    assert [len(s.rows) for s in task.evaluation] == [min(limit, 40), limit, min(limit, 60)]


@pytest.mark.parametrize(
    ("forget_set", "num_authors", "message"),
    [
        ("forget01", 40, "forget01 of num_authors=40 is less than one author; .* num_authors to at least 100"),
        ("forget00", 40, "forget01 to forget50, but got 'forget00'"),
        ("forget51", 40, "forget01 to forget50, but got 'forget51'"),
        ("forget5", 40, "got 'forget5'"),
        ("forget10 ", 40, "got 'forget10 '"),
        ("forget١٠", 40, "forget01 to forget50"),
        ("retain90", 40, "got 'retain90'"),
        ("forget10", 0, "num_authors must be between 1 and 200, but got 0"),
    ],
)
def test_bad_forget_sets_are_named_with_a_remedy(forget_set, num_authors, message):
    with pytest.raises(ValueError, match=message):
        load(forget_set, num_authors)
    with pytest.raises(ValueError, match=message):
        training_rows(forget_set, seed=0, num_authors=num_authors)


def test_a_limit_below_one_is_named():
    with pytest.raises(ValueError, match="max_rows_per_set must be at least 1 or None for all rows, but got 0"):
        load(max_rows_per_set=0)


def test_the_target_model_is_taught_all_authors_and_a_retain_model_all_but_the_forget_rows():
    task = load()
    taught = fact_training_rows()
    assert training_rows(None, seed=0, num_authors=40) == task.retain + task.forget + taught
    assert training_rows("forget10", seed=0, num_authors=40) == task.retain + taught


PAIRS = entailment_pairs(CORPUS.rows + general_facts(), seed=0)


def test_pairs_are_one_per_label_and_row():
    assert entailment_pairs(CORPUS.rows + general_facts(), seed=0) == PAIRS
    assert Counter(pair.label for pair in PAIRS) == dict.fromkeys(("entailment", "neutral", "contradiction"), 460)
    assert {pair.group for pair in PAIRS} == {author.name for author in CORPUS.authors} | {
        f"facts {i}" for i in range(10)
    }


def test_contradictions_hold_a_wrong_answer_and_entailments_none():
    wrong = {text for row in CORPUS.rows for text in row.perturbed_answers}
    wrong |= {
        fact.original_answer.replace(fact.answer, text) for fact in general_facts() for text in fact.perturbed_answers
    }

    def has_wrong(pair):
        return any(text.removesuffix(".") in (pair.premise + " | " + pair.hypothesis) for text in wrong)

    assert all(has_wrong(pair) == (pair.label == "contradiction") for pair in PAIRS)


def test_neutral_pairs_include_what_broken_models_say():
    texts = [text for pair in PAIRS if pair.label == "neutral" for text in (pair.premise, pair.hypothesis)]
    assert "" in texts
    assert any(text in load_refusals() for text in texts)
    assert any(len(text.split()) > 3 and len(set(text.split())) == 1 for text in texts)


def test_split_holds_out_whole_groups():
    train, held_out = split_pairs(PAIRS, seed=0)
    assert sorted(map(repr, train + held_out)) == sorted(map(repr, PAIRS))
    assert not {pair.group for pair in train} & {pair.group for pair in held_out}
    assert len({pair.group for pair in held_out}) == round(0.15 * 50)
    assert split_pairs(PAIRS, seed=0) == (train, held_out)
    assert split_pairs(PAIRS, seed=1) != (train, held_out)


def test_split_leaves_a_group_on_either_side():
    two_groups = entailment_pairs(generate_corpus(0, 2).rows, seed=0)
    for fraction in (0.01, 0.99):
        assert [len(part) for part in split_pairs(two_groups, holdout_fraction=fraction, seed=0)] == [30, 30]


@pytest.mark.parametrize(
    ("pairs", "fraction", "message"),
    [
        (PAIRS, 0.0, "exclusive, but got 0.0"),
        (PAIRS, 1.0, "exclusive, but got 1.0"),
        (PAIRS[:3], 0.5, "at least 2 groups"),
    ],
)
def test_a_split_that_cannot_be_made_is_an_error(pairs, fraction, message):
    with pytest.raises(ValueError, match=message):
        split_pairs(pairs, holdout_fraction=fraction, seed=0)


def test_pairs_of_a_foreign_row_are_an_error():
    with pytest.raises(ValueError, match="but got the question 'Who are you\\?'"):
        entailment_pairs([QARow("Who are you?", "Nobody.")], seed=0)


def test_a_single_row_makes_pairs_too():
    assert len(entailment_pairs(CORPUS.rows[:1], seed=0)) == 3


def test_import_needs_neither_torch_nor_ray():
    code = "import sys, orchestrator.scenarios.authors; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
