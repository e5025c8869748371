"""A look at what a search would try."""

from orchestrator.base_config import Value
from orchestrator.config import SweepConfig, cell_space, first_values
from orchestrator.tuning.cell_search import CellStudy, distributions, seed_of, trial_key


def sample_trials(sweep: SweepConfig, number: int) -> list[tuple[str, dict[str, Value]]]:
    """Key and settings of the first trials of the first cells, as the search will suggest them."""
    samples = []
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
        suggestions = [study.suggest() for _ in range(index + 1)]
        samples.append((trial_key(name, index), suggestions[-1] or {}))
    return samples
