"""The model card of an exported trial: what was forgotten, how, with what scores, and what they do not say."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in an __all__

from orchestrator.analysis.confirmation import Confirmed, confirmed
from orchestrator.analysis.summary import summarize
from orchestrator.analysis.words import count, moment, score
from orchestrator.base_config import EMBEDDED
from orchestrator.scenario_config import AuthorsScenario
from orchestrator.tracking.journal import SweepStarted, TrialState
from orchestrator.tracking.sweep_log import SweepLog, TrialLog
from orchestrator.trial_config import TrialConfig, known_metrics

TAGS = ["machine-unlearning", "lethe"]
_AS_IT_IS = re.compile(r"[\w .,:;/+=@()'%-]+")  # nothing of it ends a code span or a table's cell
_CONVENTIONS = {
    "masked": "averages over the real tokens of a step",
    "paper_code": "averages as the published code takes them",
}


@dataclass(frozen=True, slots=True)
class PromotedTrial:
    """A complete trial as the journal has it. `header` is of the sitting in which it ended."""

    log: SweepLog
    header: SweepStarted
    trial: TrialLog
    config: TrialConfig

    @property
    def key(self) -> str:
        """Such as `ME+GD/forget10/t003`."""
        return self.trial.started.key

    @property
    def metrics(self) -> Mapping[str, float]:
        """What it was scored with, the objectives first."""
        scores = _metrics(self.trial)
        return {objective.metric: scores[objective.metric] for objective in self.header.objectives} | dict(scores)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the card says besides the journal.

    `weights`: how they were made, in Markdown. `prompt`: how QUESTION is put; `adds_special_tokens`: whether the
    tokenizer puts its own around it. `questions`: how many of each evaluation set were scored, empty where that is not
    known. `forget_rows`: of each task, None where they cannot be counted.
    """

    weights: str
    prompt: str
    adds_special_tokens: bool
    questions: Mapping[str, int]
    forget_rows: tuple[int, ...] | None


def model_card(name: str, promoted: PromotedTrial, findings: Findings) -> ModelCard:
    """The card of a model called `name`. What comes from the journal or a user stands in it as code, on one line."""
    text = "\n\n".join(
        [
            f"# {code(name)}",
            _introduction(promoted),
            *("## What was forgotten", _forgotten(promoted, findings)),
            *("## How", _how(promoted, findings)),
            *("## Scores", _scores(promoted, findings)),
            *("## Limits", _limits(promoted, findings)),
            *("## Use", _use(name, promoted, findings)),
        ]
    )
    return ModelCard(f"---\n{_metadata(name, promoted).to_yaml()}\n---\n\n{text}\n")


def code(value: object) -> str:
    """Any value as Markdown: inline code on one line that a reader sees as it is, in a table and a heading too."""
    text = _one_line(str(value))
    if _AS_IT_IS.fullmatch(text):
        return f"`{text}`"
    return f"<code>{''.join(c if c.isalnum() or c == ' ' else f'&#{ord(c)};' for c in text)}</code>"


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text).split())


def _metadata(name: str, promoted: PromotedTrial) -> ModelCardData:
    """What the hub reads. Only names that can be the hub's are given as its models and data sets."""
    config, metrics = promoted.config, promoted.metrics
    source = EMBEDDED if isinstance(config.scenario, AuthorsScenario) else config.scenario.source
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=source if _is_hub_name(source) else config.scenario.name,
            dataset_name=_one_line(f"{config.scenario.name} {config.forget_set}"),
            metric_type=_one_line(objective.metric),
            metric_value=metrics[objective.metric],
        )
        for objective in promoted.header.objectives
    ]
    return ModelCardData(
        base_model=config.model.target if _is_hub_name(config.model.target) else None,
        datasets=[source] if _is_hub_name(source) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
        model_name=_one_line(name),
        eval_results=results,
    )


def _introduction(promoted: PromotedTrial) -> str:
    started, finished = promoted.trial.started, promoted.trial.finished
    assert finished is not None
    return (
        f"{code(started.method)} made this model forget {code(started.forget_set)}. It is trial {code(promoted.key)}, "
        f"which ended {moment(finished.time)}, of the Lethe sweep {code(promoted.header.name)}."
    )


def _forgotten(promoted: PromotedTrial, findings: Findings) -> str:
    scenario, rows = promoted.config.scenario, findings.forget_rows
    if isinstance(scenario, AuthorsScenario):
        source = f"{scenario.num_authors} authors that Lethe invented from seed {scenario.corpus_seed}"
    elif scenario.source == EMBEDDED:
        source = "authors that Lethe invented"
    elif _is_hub_name(scenario.source):
        source = f"{code(scenario.source)} on the hub; the sweep pins no revision of it"
    else:
        source = _place(scenario.source)
    amount = "not counted, because the rows that were trained on could not be read again"
    if rows is not None:
        amount = count(sum(rows), "row") + (f" in {len(rows)} tasks, one after another" if len(rows) > 1 else "")
    items = {
        "scenario": code(scenario.name),
        "source": source,
        "forget set": f"{code(promoted.config.forget_set)}: {amount}",
        "start": f"{_place(promoted.config.model.target)}, the model that knew them",
    }
    nothing = "The texts are not in this card, and no hash of them, from which a short one could be guessed."
    return f"{_listed(items)}\n\n{nothing}"


def _how(promoted: PromotedTrial, findings: Findings) -> str:
    config, started = promoted.config, promoted.trial.started
    names = ", ".join(code(f"{package} {version}") for package, version in promoted.header.versions.items())
    where = f"{started.gpus:g} GPUs" if started.gpus else "CPUs"
    how = _listed(
        {
            "method": f"{code(started.method)}, as arXiv 2410.08109 names it",
            "steps": f"{len(promoted.trial.steps)} optimizer steps, seed {config.seed}, on {where}",
            "convention": f"{code(config.train.convention)}: {_CONVENTIONS[config.train.convention]}",
            "weights": findings.weights,
            "versions": names or "not recorded",
        }
    )
    searched = {key: "searched" for key in started.params}
    rows = [(code(key), code(value), searched.get(key, "")) for key, value in _settings(config).items()]
    return f"{how}\n\n{_table(('setting', 'value', ''), rows)}"


def _settings(config: TrialConfig) -> dict[str, Any]:
    """What decides a trial's result, by dotted name."""
    assert config.method is not None
    forget, retain = config.method.forget, config.method.retain
    weights = {key: getattr(config.method, key) for key in ("forget_weight", "retain_weight")}
    sections: dict[str, dict[str, Any]] = {
        "method": {key: value for key, value in weights.items() if key in config.method.settings}
        | forget.model_dump(exclude={"type"})
        | (retain.model_dump(exclude={"type"}) if retain else {}),
        "train": config.train.model_dump(),
        "zero": config.zero.model_dump(include={"stage"}),
        "lora": config.lora.model_dump() if config.lora else {},
        "model": config.model.model_dump(include={"template", "dtype", "attention"}),
        "evaluation": config.evaluation.model_dump(include={"max_length", "max_rows_per_set"}),
    }
    found = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return {key: "none" if value is None else value for key, value in found.items()}


def _scores(promoted: PromotedTrial, findings: Findings) -> str:
    finished, log, forget_set = promoted.trial.finished, promoted.log, promoted.config.forget_set
    assert finished is not None
    known = known_metrics(promoted.config.scenario, promoted.config.evaluation)
    objectives = {objective.metric for objective in promoted.header.objectives}
    before, retain_model = (_metrics(log.baseline(kind, forget_set)) for kind in ("before", "retain_model"))
    rows = []
    for metric, value in promoted.metrics.items():
        better = {"maximize": "higher", "minimize": "lower"}[known[metric].direction] if metric in known else ""
        name = f"{code(metric)}, searched for" if metric in objectives else code(metric)
        rows.append((name, better, score(before.get(metric)), score(value), score(retain_model.get(metric))))
    judges = [f"{code(role)} {_place(judge)}" for role, judge in finished.judges.items()]
    asked = [f"{amount} of {code(name)}" for name, amount in findings.questions.items()]
    parts = [
        _table(("metric", "better", "before unlearning", "this model", "retain model"), rows),
        "The retain model never saw the forget set: forgetting aims at its scores."
        if retain_model
        else "No retain model, one that never saw the forget set, was scored beside it.",
        f"Judges: {', '.join(judges) or 'none recorded'}. Questions: {', '.join(asked) or 'not counted'}.",
    ]
    return "\n\n".join(parts)


def _limits(promoted: PromotedTrial, findings: Findings) -> str:
    method, forget_set = promoted.trial.started.method, promoted.config.forget_set
    in_cell = _num_complete(promoted.log.cell(method, forget_set))
    on_set = _num_complete(one for one in promoted.log.searched() if one.started.forget_set == forget_set)
    asked = count(sum(findings.questions.values()), "question") if findings.questions else "one set of questions"
    again = confirmed(summarize(promoted.log), promoted.key)
    bars = "; below are those of other seeds" if again else ""
    truth = _confirmed(promoted, again) if again else "Only questions that chose nothing could tell by how much."
    return (
        f"- The scores come from {asked} and one seed. They have no error bars{bars}.\n"
        f"- This is one of {count(in_cell, 'complete trial')} of {code(method)} on {code(forget_set)}, and of {on_set} "
        "of all methods. The search, and who chose the trial, looked at these very scores: the best of many flatters "
        f"itself. {truth}\n"
        "- There is no guarantee against extraction. What is measured is what the model answers to these questions, "
        "put in this form, and how likely it holds the true answers. Other prompts, more training, coarser weights or "
        "a look inside the model may bring back what was to be forgotten; none of this was tried."
    )


def _confirmed(promoted: PromotedTrial, again: Confirmed) -> str:
    """What runs with other seeds reach on held-out questions, in two sentences."""
    assert again.mean is not None
    bars = [f" ± {score(value)}" for value in again.deviation or ()] or [""] * len(again.mean)
    said = [
        f"{code(objective.metric)} {score(mean)}{bar} (here {score(here)})"
        for objective, mean, bar, here in zip(
            promoted.log.header.objectives, again.mean, bars, again.search, strict=True
        )
    ]
    spread = f", mean ± standard deviation over {again.num_complete} seeds" if again.deviation else ", of one seed"
    return (
        "Questions that chose nothing tell about how much: these settings, run again with fresh seeds (complete: "
        f"{again.num_complete} of {count(again.num_planned, 'run')}), have on held-out questions {', '.join(said)}"
        f"{spread}. The weights here are of none of these runs."
    )


def _use(name: str, promoted: PromotedTrial, findings: Findings) -> str:
    special = "" if findings.adds_special_tokens else ", add_special_tokens=False"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"folder = {name!r}",
        f"prompt = {findings.prompt!r}",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        f'tokens = tokenizer(prompt, return_tensors="pt"{special})',
        f"how = dict(do_sample=False, repetition_penalty=1.0, max_length={promoted.config.evaluation.max_length})",
        "print(tokenizer.decode(model.generate(**tokens, **how)[0]))",
    ]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    block = "\n".join([f"{fence}python", *lines, fence])
    return f"The scores hold for questions put like this, in place of `QUESTION`, and answered greedily:\n\n{block}"


def _place(place: str) -> str:
    """A hub name or another name; of a folder its last part alone, because paths are nobody else's business."""
    if place == EMBEDDED:
        return "made by Lethe"
    return f"a folder {code(Path(place).name)}" if place.startswith(("/", "~", ".")) else code(place)


def _is_hub_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return name != EMBEDDED


def _metrics(trial: TrialLog | None) -> Mapping[str, float]:
    return trial.finished.metrics if trial is not None and trial.finished is not None else {}


def _num_complete(trials: Iterable[TrialLog]) -> int:
    return sum(one.finished is not None and one.finished.state == TrialState.COMPLETE for one in trials)


def _listed(items: Mapping[str, str]) -> str:
    return "\n".join(f"- {label}: {text}" for label, text in items.items())


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows))
