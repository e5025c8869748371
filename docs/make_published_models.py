"""Writes published_models.md: python docs/make_published_models.py FILE

FILE: tuned_150_runs.json of gnueaj/unlearning-depth-score (Apache-2.0), metrics of published unlearned models.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.analysis.constraints import Constraint, best_at
from orchestrator.analysis.pareto import Direction, Points, UnitBox, front, knee
from orchestrator.analysis.volume import volumes
from orchestrator.analysis.words import number

PAGE = Path(__file__).with_name("published_models.md")
METRICS = ("mem", "privacy", "utility")
DIRECTIONS: tuple[Direction, ...] = ("maximize",) * 3
SHARE = 0.95
Model = dict[str, Any]

HEAD = """\
# 150 published models

<!-- Written by docs/make_published_models.py; change that, then run it. -->

What [the Pareto analysis](pareto.md) says of models that others made: 150 models unlearned on TOFU's forget10 from
Llama-3.2-1B, by eight methods at 18 or 24 settings each, with the metrics that were published with them by
[gnueaj/unlearning-depth-score](https://github.com/gnueaj/unlearning-depth-score) (Apache-2.0). Three of them, each
from 0 to 1, higher is better:

- `mem`, how little is still known of the forget set: the harmonic mean of one minus extraction strength, exact
  memorisation, probability of a paraphrase, and truth ratio;
- `privacy`, how little tells that the forget set was ever seen;
- `utility`, the harmonic mean of TOFU's Model Utility and fluency.
"""


def read(path: Path) -> list[Model]:
    """All models of the file, the two baselines `full` and `retain` among them."""
    models: list[Model] = json.loads(path.read_text(encoding="utf-8"))["models"]
    return models


def tuned(models: Sequence[Model]) -> list[Model]:
    """Without the baselines."""
    return [model for model in models if model["method"] not in ("full", "retain")]


def values(models: Sequence[Model]) -> Points:
    """Metrics of the models, (N, 3)."""
    return np.array([[model[metric] for metric in METRICS] for model in models], dtype=np.float64).reshape(-1, 3)


def page(models: Sequence[Model]) -> str:
    """The whole page as Markdown."""
    (before,), (retain_model,) = ([m for m in models if m["method"] == name] for name in ("full", "retain"))
    candidates = tuned(models)
    best = [candidates[i] for i in front(values(candidates), DIRECTIONS)]
    zero, one = (before["mem"], before["privacy"], 0.0), tuple(retain_model[metric] for metric in METRICS)
    box = UnitBox(zero, one, DIRECTIONS)
    parts = [HEAD, _baselines(before, retain_model), _methods(candidates, best, box), _best(candidates, before)]
    return "\n".join([*parts, _front(best, candidates)])


def _baselines(before: Model, retain_model: Model) -> str:
    rows = [["before unlearning", *_scores(before)], ["retain model", *_scores(retain_model)]]
    return f"{_table(['model', *METRICS], rows)}\n"


def _methods(candidates: Sequence[Model], best: Sequence[Model], box: UnitBox) -> str:
    """How much each method is worth."""
    names = sorted({model["method"] for model in candidates})
    ended = {name: values([model for model in candidates if model["method"] == name]) for name in names}
    found = volumes(box, ended)
    on_front = {name: sum(model["method"] == name for model in best) for name in names}
    rows = []
    for name in sorted(names, key=lambda name: -found[name].whole):
        volume = found[name]
        spread = " to ".join(f"{end:.3f}" for end in volume.interval or ())
        counts = [str(len(ended[name])), str(on_front[name])]
        rows.append([name, *counts, f"{volume.whole:.3f}", spread, f"{volume.alone:.3f}"])
    drawn, total = found[names[0]].num_drawn, box.hypervolume(values(candidates))
    titles = ["method", "models", "on the front", "hypervolume", f"with {drawn} models, 95%", "alone"]
    return f"""\
## Methods

{len(best)} of the {len(candidates)} models are not dominated by another one. Hypervolume is measured on scaled axes:
mem and privacy from the model before unlearning, utility from 0, each to the retain model's. The retain model has 1,
all models together have {total:.3f}: some go beyond it in mem. *Alone* is what all together would lose without the
method. The settings are a grid, not random draws, so the range only tells how much of a method's volume hangs on few of
its models.

{_table(titles, rows)}
"""


def _best(candidates: Sequence[Model], before: Model) -> str:
    """The most private model of each method that keeps nearly all utility."""
    limit = Constraint(2, "maximize", SHARE, baseline=before["utility"])
    rows, none = [], []
    for name in sorted({model["method"] for model in candidates}):
        mine = [model for model in candidates if model["method"] == name]
        chosen = best_at(values(mine), 1, [limit], DIRECTIONS)
        if chosen is None:
            none.append(name)
        else:
            rows.append([f"`{mine[chosen]['model']}`", *_scores(mine[chosen])])
    rows.sort(key=lambda row: -float(row[2]))
    lost = f"\nNo model keeps that much: {', '.join(none)}.\n" if none else ""
    return f"""\
## Best privacy at {SHARE:.0%} of the utility

For each method the model of most privacy among those whose utility is at least {limit.limit:.3f}, {SHARE:.0%} of that
before unlearning.

{_table(["model", *METRICS], rows)}
{lost}"""


def _front(best: Sequence[Model], candidates: Sequence[Model]) -> str:
    compromise = candidates[knee(values(candidates), DIRECTIONS)]["model"]
    ordered = sorted(best, key=lambda model: -model["utility"])
    rows = [
        [f"`{m['model']}`", m["method"], number(m["lr"]), m["epoch"].removeprefix("ep"), *_scores(m)] for m in ordered
    ]
    return f"""\
## The front

By utility. The knee, nearest to the best of each metric on the front, is `{compromise}`.

{_table(["model", "method", "learning rate", "epochs", *METRICS], rows)}
"""


def _scores(model: Model) -> list[str]:
    return [f"{model[metric]:.3f}" for metric in METRICS]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PAGE.write_text(page(read(Path(sys.argv[1]))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
