"""A look at what a search would try."""

from orchestrator.base_config import Value
from orchestrator.config import SweepConfig, cell_space, first_values, num_trials
from orchestrator.tuning.cell_study import CellStudy, distributions, seed_of, trial_key


def sample_trials(sweep: SweepConfig, number: int) -> dict[str, dict[str, Value]]:
    """Settings of up to `number` early trials of the first cells by key, as the search will suggest them."""
    samples: dict[str, dict[str, Value]] = {}
    cells = [(entry, name) for name in sweep.forget_sets for entry in sweep.methods]
    for index in range(number):
        entry, forget_set = cells[index % len(cells)]
        name = f"{entry.name}/{forget_set}"
        study = CellStudy(
            name=name,
            space=distributions(cell_space(sweep, entry)),
            first=first_values(sweep, entry),
            directions=["maximize"] * len(sweep.objectives),
            search=sweep.search,
            seed=seed_of(sweep.seed, name),
            lookahead=number + 1,
        )
        trial = min(index, num_trials(sweep, entry) - 1)  # a cell may have fewer
        suggestions = [study.suggest() for _ in range(trial + 1)]
        samples[trial_key(name, trial)] = suggestions[-1] or {}
    return samples
