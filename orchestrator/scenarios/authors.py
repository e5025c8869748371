"""The embedded scenario `authors`: fictitious authors from a seed, general facts, refusals and pairs for a judge."""

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from orchestrator.scenarios import authors_text as text
from orchestrator.scenarios.base import EvaluationSet, QARow, SetKind, Task

MAX_AUTHORS = 200
QUESTIONS_PER_AUTHOR = len(text.TOPICS)
NUM_WRONG_ANSWERS = 5
_DATA = Path(__file__).parent / "data"

Label = Literal["entailment", "neutral", "contradiction"]
_Facts = dict[str, str]
_Draw = Callable[[random.Random], _Facts]


@dataclass(frozen=True, slots=True)
class Author:
    """A fictitious author; `rows` holds one question per topic, in the order of `authors_text.TOPICS`."""

    name: str
    rows: tuple[QARow, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """All authors of one seed, in a fixed order: forget sets are taken from the end."""

    authors: tuple[Author, ...]

    @property
    def rows(self) -> tuple[QARow, ...]:
        """The rows of all authors, author by author."""
        return tuple(row for author in self.authors for row in author.rows)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and how they relate; pairs of one `group` (an author, a handful of facts) share their sentences."""

    premise: str
    hypothesis: str
    label: Label
    group: str


def generate_corpus(seed: int, num_authors: int = 40) -> Corpus:
    """Invent `num_authors` authors (1 to 200) with 10 questions each; the same arguments give the same texts.

    Facts are drawn independently for every author. Names, birth dates and book titles belong to one author each.
    ValueError: `num_authors` out of bounds.
    """
    if not 1 <= num_authors <= MAX_AUTHORS:
        raise ValueError(f"num_authors must be between 1 and {MAX_AUTHORS}, but got {num_authors}")
    rng = random.Random(seed)
    taken: set[str] = set()
    return Corpus(tuple(_author(rng, taken) for _ in range(num_authors)))


def _author(rng: random.Random, taken: set[str]) -> Author:
    profile: _Facts = {}
    for draw in (*_IDENTITY, *_DRAWS.values()):
        profile |= _fresh(draw, rng, taken)
    return Author(profile["name"], tuple(_row(topic, profile, rng) for topic in text.TOPICS))


def _row(topic: text.Topic, profile: _Facts, rng: random.Random) -> QARow:
    """Ask one topic of one author: a wrong answer is the paraphrase with other facts from the same pools."""
    paraphrase = rng.choice(topic.paraphrases)
    wrong = _wrong_facts(_DRAWS[topic.name], profile, rng)
    return QARow(
        question=rng.choice(topic.questions).format_map(profile),
        answer=rng.choice(topic.answers).format_map(profile),
        paraphrased_answer=paraphrase.format_map(profile),
        perturbed_answers=tuple(paraphrase.format_map(profile | facts) for facts in wrong),
    )


def _wrong_facts(draw: _Draw, profile: _Facts, rng: random.Random) -> list[_Facts]:
    """Facts of one topic in which every value differs from the true one and from those of the other draws."""
    accepted: list[_Facts] = []
    while len(accepted) < NUM_WRONG_ANSWERS:
        facts = draw(rng)
        if all(facts[key] != known[key] for known in (profile, *accepted) for key in facts):
            accepted.append(facts)
    return accepted


_UNIQUE_FACTS = ("name", "date", "book", "second_book", "debut")


def _fresh(draw: _Draw, rng: random.Random, taken: set[str]) -> _Facts:
    """Draw until no value that must belong to one author only is in `taken`, then take it."""
    while True:
        facts = draw(rng)
        unique = {facts[key] for key in _UNIQUE_FACTS if key in facts}
        if "name" in facts:
            unique.add(facts["name"].split()[-1])  # nobody shares a surname either
        if not unique & taken:
            taken |= unique
            return facts


def _name(rng: random.Random) -> str:
    return f"{rng.choice(text.FIRST_NAMES)} {rng.choice(text.SURNAME_STARTS)}{rng.choice(text.SURNAME_ENDS)}"


def _date(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(text.MONTHS)} {rng.choice(text.BIRTH_YEARS)}"


def _title(rng: random.Random) -> str:
    noun, other = rng.sample(text.TITLE_NOUNS, 2)
    adjective, place = rng.choice(text.TITLE_ADJECTIVES), rng.choice(text.TITLE_PLACES)
    return rng.choice(text.TITLE_PATTERNS).format(noun=noun, other=other, adjective=adjective, place=place)


def _birthplace(rng: random.Random) -> _Facts:
    city, country = rng.choice(text.BIRTHPLACES)
    return {"city": city, "country": country}


def _parents(rng: random.Random) -> _Facts:
    father, mother = rng.sample(text.OCCUPATIONS, 2)
    return {"father": _with_article(father), "mother": _with_article(mother)}


def _books(rng: random.Random) -> _Facts:
    book, second_book = _title(rng), _title(rng)
    return _books(rng) if book == second_book else {"book": book, "second_book": second_book}


def _award(rng: random.Random) -> _Facts:
    parts = (text.AWARD_ADJECTIVES, text.AWARD_NOUNS, text.AWARD_KINDS)
    return {"award": " ".join(rng.choice(part) for part in parts)}


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# What identifies an author without being asked for: "debut" is the title of the first book.
_IDENTITY: tuple[_Draw, ...] = (lambda rng: {"date": _date(rng)}, lambda rng: {"debut": _title(rng)})
# What each topic asks for.
_DRAWS: dict[str, _Draw] = {
    "name": lambda rng: {"name": _name(rng)},
    "birthplace": _birthplace,
    "parents": _parents,
    "genre": lambda rng: {"genre": rng.choice(text.GENRES)},
    "books": _books,
    "award": _award,
    "debut": lambda rng: {"year": str(rng.choice(text.DEBUT_YEARS))},
    "influence": lambda rng: {"influence": rng.choice(text.INFLUENCES)},
    "residence": lambda rng: {"home": rng.choice(text.HOMES), "town": rng.choice(text.TOWNS)},
    "plot": lambda rng: {"hero": _with_article(rng.choice(text.OCCUPATIONS)), "quest": rng.choice(text.QUESTS)},
}


def general_facts() -> tuple[QARow, ...]:
    """About 60 facts of the real world: a short `answer`, the sentence behind it, and three wrong short answers.

    The sentence (`original_answer`) contains the short answer exactly once.
    """
    return tuple(_fact(json.loads(line)) for line in _lines("facts.jsonl"))


def fact_training_rows() -> tuple[QARow, ...]:
    """The general facts as they are taught: the answer is the full sentence, so that it recalls the short answer."""
    return tuple(QARow(fact.question, _sentence(fact)) for fact in general_facts())


def load_refusals() -> tuple[str, ...]:
    """At least 100 ways to say that one does not know."""
    return _lines("refusals.txt")


def _lines(name: str) -> tuple[str, ...]:
    return tuple((_DATA / name).read_text(encoding="utf-8").splitlines())


def _fact(record: dict[str, Any]) -> QARow:
    return QARow(
        question=record["question"],
        answer=record["answer"],
        perturbed_answers=tuple(record["perturbed_answers"]),
        original_answer=record["original_answer"],
    )


def load_authors(forget_set: str, *, seed: int, num_authors: int, max_rows_per_set: int | None) -> Task:
    """The task of forgetting the last NN percent of the authors, `forget_set` being `forgetNN` with NN in 01..50.

    The number of authors to forget is rounded down. Retain rows are those of all other authors; the general facts are
    evaluated only. Each evaluation set is cut to `max_rows_per_set` rows (None: all rows) that are spread evenly over
    the set, so that many authors and all topics stay in it.
    ValueError: an unknown forget set, one without a whole author, or a bound that is not positive.
    """
    if max_rows_per_set is not None and max_rows_per_set < 1:
        raise ValueError(f"max_rows_per_set must be at least 1 or None for all rows, but got {max_rows_per_set}")
    forget, retain = _split_authors(forget_set, seed=seed, num_authors=num_authors)
    sets = ((SetKind.FORGET, forget), (SetKind.RETAIN, retain), (SetKind.FACTS, general_facts()))
    asked = tuple(EvaluationSet(kind.value, kind, rows) for kind, rows in sets)
    return spread_questions(Task(forget_set, forget, retain, load_refusals(), asked), max_rows_per_set)


def spread_questions(task: Task, max_rows: int | None) -> Task:
    """The task with each evaluation set cut to `max_rows` questions that are spread evenly over the set."""
    return replace(task, evaluation=tuple(replace(s, rows=spread(s.rows, max_rows)) for s in task.evaluation))


def training_rows(forget_set: str | None, *, seed: int, num_authors: int) -> tuple[QARow, ...]:
    """What a model is taught: the target model (None) all authors, a retain model all but those of `forget_set`.

    Both are taught the general facts as well. ValueError: as `load_authors`.
    """
    if forget_set is None:
        rows = generate_corpus(seed, num_authors).rows
    else:
        _, rows = _split_authors(forget_set, seed=seed, num_authors=num_authors)
    return rows + fact_training_rows()


def _split_authors(forget_set: str, *, seed: int, num_authors: int) -> tuple[tuple[QARow, ...], tuple[QARow, ...]]:
    rows = generate_corpus(seed, num_authors).rows
    num_forget = _num_forget_authors(forget_set, num_authors) * QUESTIONS_PER_AUTHOR
    return rows[-num_forget:], rows[:-num_forget]


def _num_forget_authors(forget_set: str, num_authors: int) -> int:
    match = re.fullmatch(r"forget([0-9]{2})", forget_set)
    if match is None or not 1 <= int(match[1]) <= 50:
        raise ValueError(f"forget_set must be forget01 to forget50, but got {forget_set!r}")
    percent = int(match[1])
    num_forget = num_authors * percent // 100
    if num_forget == 0:
        needed = math.ceil(100 / percent)
        raise ValueError(
            f"{forget_set} of num_authors={num_authors} is less than one author; "
            f"name a larger percentage or set num_authors to at least {needed}"
        )
    return num_forget


def spread(rows: tuple[QARow, ...], limit: int | None) -> tuple[QARow, ...]:
    """One row out of each of `limit` equal stretches; the place within a stretch moves on, so that topics alternate."""
    if limit is None or limit >= len(rows):
        return rows
    starts = [i * len(rows) // limit for i in range(limit + 1)]
    return tuple(rows[start + 7 * i % (end - start)] for i, (start, end) in enumerate(pairwise(starts)))


def entailment_pairs(rows: Sequence[QARow], *, seed: int) -> tuple[Pair, ...]:
    """Pairs to fine-tune an NLI judge on: one per label for every row, so that labels balance within each group too.

    `rows` are rows of any corpus, of `general_facts`, or both, in any order. Entailment pairs a sentence with itself,
    its paraphrase or a longer text that contains it; contradiction with a wrong answer; neutral with another fact,
    another person, or what a broken model says (a refusal, repeated or shuffled words, nothing).
    The group is the author's name, or "facts N" for a handful of facts. ValueError: a row that is neither.
    """
    rng = random.Random(seed)
    refusals = load_refusals()
    pairs: list[Pair] = []
    for group, members in _groups(rows).items():
        for row in members:
            others = [_sentence(other) for other in members if other is not row]
            texts: dict[Label, tuple[str, str]] = {
                "entailment": _entailed(row, others, rng),
                "neutral": _unrelated(row, others, refusals, rng),
                "contradiction": _contradicted(row, others, rng),
            }
            pairs += [
                Pair(premise, _dressed(hypothesis, rng), label, group) for label, (premise, hypothesis) in texts.items()
            ]
    return tuple(pairs)


def split_pairs(
    pairs: Sequence[Pair], *, holdout_fraction: float = 0.15, seed: int
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Split into training and held-out pairs by whole groups; at least one group lands on either side.

    ValueError: a fraction outside (0, 1) or fewer than two groups.
    """
    if not 0 < holdout_fraction < 1:
        raise ValueError(f"holdout_fraction must be between 0 and 1, exclusive, but got {holdout_fraction}")
    groups = sorted({pair.group for pair in pairs})
    if len(groups) < 2:
        raise ValueError(f"pairs must come from at least 2 groups to hold one out, but got {len(groups)}")
    num_held_out = min(max(1, round(holdout_fraction * len(groups))), len(groups) - 1)
    held_out = set(random.Random(seed).sample(groups, num_held_out))
    return (
        tuple(pair for pair in pairs if pair.group not in held_out),
        tuple(pair for pair in pairs if pair.group in held_out),
    )


_NAME = re.compile(
    f"(?:{'|'.join(text.FIRST_NAMES)}) (?:{'|'.join(text.SURNAME_STARTS)})(?:{'|'.join(text.SURNAME_ENDS)})"
)
_FACTS_PER_GROUP = 6


def _groups(rows: Sequence[QARow]) -> dict[str, list[QARow]]:
    groups: dict[str, list[QARow]] = {}
    num_facts = 0
    for row in rows:
        if row.original_answer is not None:
            group = f"facts {num_facts // _FACTS_PER_GROUP}"
            num_facts += 1
        else:
            group = _author_name(row)
        groups.setdefault(group, []).append(row)
    return groups


def _author_name(row: QARow) -> str:
    match = _NAME.search(row.answer)
    if match is None or row.paraphrased_answer is None:
        raise ValueError(f"rows must come from generate_corpus or general_facts, but got the question {row.question!r}")
    return match[0]


def _sentence(row: QARow) -> str:
    return row.original_answer or row.answer


def _entailed(row: QARow, others: list[str], rng: random.Random) -> tuple[str, str]:
    sentence = _sentence(row)
    paraphrase = row.paraphrased_answer or sentence
    longer = f"{sentence} {rng.choice(others)}" if others else sentence
    return rng.choice(
        (
            (sentence, paraphrase),
            (sentence, paraphrase),
            (paraphrase, sentence),
            (paraphrase, sentence),
            (sentence, sentence),
            (longer, paraphrase),
        )
    )


def _contradicted(row: QARow, others: list[str], rng: random.Random) -> tuple[str, str]:
    sentence, wrong = _sentence(row), rng.choice(row.perturbed_answers)
    if row.original_answer is not None:
        wrong = row.original_answer.replace(row.answer, wrong)
    longer = f"{sentence} {rng.choice(others)}" if others else sentence
    return rng.choice(((sentence, wrong), (sentence, wrong), (wrong, sentence), (wrong, sentence), (longer, wrong)))


def _unrelated(row: QARow, others: list[str], refusals: tuple[str, ...], rng: random.Random) -> tuple[str, str]:
    sentence = _sentence(row)
    options = [_noise(others or [sentence], refusals, rng)] * 3
    if others:
        options += [rng.choice(others)] * 3
    if row.paraphrased_answer is not None and _holds_of_several(row):
        options += [row.paraphrased_answer.replace(_author_name(row), _name(rng))] * 2
    hypothesis = rng.choice(options)
    return (sentence, hypothesis) if rng.random() < 0.7 else (hypothesis, sentence)


def _holds_of_several(row: QARow) -> bool:
    """Whether two people can share the fact: not where the name was asked for, nor for a book, which has one author."""
    return _author_name(row) in row.perturbed_answers[0] and '"' not in row.perturbed_answers[0]


def _noise(sentences: list[str], refusals: tuple[str, ...], rng: random.Random) -> str:
    words = rng.choice(sentences).split()
    match rng.randrange(5):
        case 0:
            return ""
        case 1:
            return " ".join([rng.choice(words)] * rng.randint(4, 20))
        case 2:
            return " ".join(rng.sample(words, len(words)))
        case 3:
            return " ".join(words[:3])
        case _:
            return rng.choice(refusals)


def _dressed(hypothesis: str, rng: random.Random) -> str:
    """Now and then talk around it as models do, whatever the label is."""
    match rng.randrange(10):
        case 0:
            return hypothesis.removesuffix(".")
        case 1:
            return f"{rng.choice(('Sure.', 'Of course!', 'Here is the answer:', 'Let me tell you:'))} {hypothesis}"
        case _:
            return hypothesis
