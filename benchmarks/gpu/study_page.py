"""The record of a study that ran: python -m benchmarks.gpu.study_page KEPT FILE.json

KEPT is what `tofu_study sweep --keep` left: journal/ and study.json. Writes FILE.json and a page beside it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import table
from benchmarks.recording import versions_of
from orchestrator.analysis.summary import CellSummary, SweepSummary, TrialSummary, summarize
from orchestrator.analysis.words import measure
from orchestrator.tracking.sweep_log import load_sweep

_METRICS = ("model_utility", "forget_efficacy", "forget_quality")


def facts_of(kept: Path) -> dict[str, Any]:
    """Numbers of the study: its models, its baselines, each cell's trials, hypervolume and knee."""
    summary = summarize(load_sweep(kept))
    study = json.loads((kept / "study.json").read_text(encoding="utf-8"))
    return {
        **study,
        "state": summary.state,
        "seed": summary.seed,
        "counts": summary.counts,
        "seconds_of_all_trials": round(summary.seconds, 1),
        "judges": {role: list(models) for role, models in summary.judges.items()},
        "baselines": [_trial(trial) for group in summary.forget_sets for trial in group.baselines],
        "hypervolume_axes": {group.name: measure(group, summary.objectives) for group in summary.forget_sets},
        "cells": _cells(summary),
    }


def _cells(summary: SweepSummary) -> list[dict[str, Any]]:
    return [
        {
            "forget_set": group.name,
            "method": cell.method,
            "trials": len(cell.trials),
            "counts": cell.counts,
            "hypervolume": cell.hypervolume,
            "knee": _knee(cell),
        }
        for group in summary.forget_sets
        for cell in group.ranking
    ]


def _knee(cell: CellSummary) -> dict[str, Any] | None:
    return None if cell.knee is None else _trial(cell.knee)


def _trial(trial: TrialSummary) -> dict[str, Any]:
    metrics = {name: round(trial.metrics[name], 6) for name in _METRICS if name in trial.metrics}
    return {"key": trial.key, "params": trial.params, "metrics": metrics, "seconds": trial.seconds}


def page(facts: dict[str, Any], name: str) -> str:
    """The record as tables."""
    models = [[name, *_card(card)] for name, card in facts["models"].items()]
    baselines = [[one["key"], *_numbers(one)] for one in facts["baselines"]]
    cells = []
    for cell in facts["cells"]:
        volume = "" if cell["hypervolume"] is None else f"{cell['hypervolume']:.3f}"
        knee = ["", "", ""] if cell["knee"] is None else _numbers(cell["knee"])
        cells.append([cell["forget_set"], cell["method"], str(cell["trials"]), volume, *knee])
    titles = ["Model Utility", "Forget Efficacy", "Forget Quality (p)"]
    lines = [
        f"# TOFU on a model of {facts['parameters'] / 1e6:.0f} million weights",
        f"{facts['date']}, {facts['device']}, {facts['machine']}. `{facts['command']}`, seed {facts['seed']}, "
        f"{facts['at_a_time']} trials at a time; {facts['state']}: {facts['counts']}. Numbers: [{name}]({name}).",
        versions_of(facts),
        "Judges: " + "; ".join(f"{role}: {', '.join(names)}" for role, names in facts["judges"].items()) + ".",
        "",
        *table(["model", "rows", "steps", "loss", "ROUGE-L recall", "seconds"], models),
        "",
        *table(["baseline", *titles], baselines),
        "",
        "Cells by hypervolume, with the trial at the knee of their front.",
        *(f"{name}: {axes}" for name, axes in facts["hypervolume_axes"].items()),
        "",
        *table(["forget set", "method", "trials", "hypervolume", *titles], cells),
    ]
    return "\n".join(lines) + "\n"


def _card(card: dict[str, Any]) -> list[str]:
    return [str(card["rows"]), str(card["steps"]), _number(card["loss"]), _number(card["rouge"]), str(card["seconds"])]


def _numbers(trial: dict[str, Any]) -> list[str]:
    return [_number(trial["metrics"].get(name)) for name in _METRICS]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 1e-3 or value == 0 else f"{value:.1e}"


def main() -> int:
    """Command line."""
    if len(sys.argv) != 3:
        sys.stderr.write(str(__doc__))
        return 2
    kept, out = Path(sys.argv[1]), Path(sys.argv[2])
    facts = facts_of(kept)
    out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(facts, out.name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
