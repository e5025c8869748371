"""The same questions asked before unlearning, of the retain model, and of each method's best trial."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.analysis.differences import Part, differences
from orchestrator.analysis.summary import ForgetSetSummary, TrialSummary


@dataclass(frozen=True, slots=True)
class Question:
    """One question and what each model said; None where a model's answer was not recorded."""

    question: str
    truth: str
    outputs: tuple[tuple[str, str | None], ...]

    def changes(self, owner: str) -> tuple[Part, ...] | None:
        """What a model says otherwise than the one before unlearning; None where there is nothing to mark."""
        outputs = dict(self.outputs)
        before, after = outputs.get("before"), outputs.get(owner)
        return None if owner == "before" or before is None or after is None else differences(before, after)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The recorded questions of one evaluation set, by index."""

    name: str
    questions: tuple[Question, ...]


def side_by_side(group: ForgetSetSummary) -> tuple[QuestionSet, ...]:
    """Answers of the baselines and the cells' knees, matched by set and index; the set `forget` comes first."""
    models = [trial for trial in group.models if trial.examples]
    names = dict.fromkeys(example.set_name for trial in models for example in trial.examples)
    ordered = sorted(names, key=lambda name: not name.startswith("forget"))
    return tuple(QuestionSet(name, _questions(name, models)) for name in ordered)


def _questions(set_name: str, models: Sequence[TrialSummary]) -> tuple[Question, ...]:
    outputs: dict[int, dict[str, str]] = {}
    texts: dict[int, tuple[str, str]] = {}
    for trial in models:
        for example in trial.examples:
            if example.set_name == set_name:
                texts.setdefault(example.index, (example.question, example.truth))
                outputs.setdefault(example.index, {})[trial.method] = example.output
    return tuple(
        Question(*texts[index], tuple((trial.method, outputs[index].get(trial.method)) for trial in models))
        for index in sorted(texts)
    )
