"""A real sweep that runs its finalists again, and is resumed for one more seed."""

import pytest

from orchestrator.tracking.confirmation import finalists
from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny

pytestmark = pytest.mark.ray


def asked(folder, log, confirming):
    """Questions in the score files of the search, or of what confirms it."""
    trials = {key: trial for key, trial in log.trials.items() if (trial.started.confirms is not None) == confirming}
    return {row["question"] for key in trials for row in tiny.scores(folder, key)}


def test_finalists_are_scored_with_other_seeds_on_questions_that_the_search_never_asked(models, tmp_path):
    more = ("methods=[GA+GD]", "search.trials_per_cell=2", "confirm.seeds=1", "evaluation.max_rows_per_set=6")
    done = tiny.run(tiny.settings(models, tmp_path, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tiny.sweep_folder(tmp_path)
    first = load_sweep(folder)
    chosen = [trial.started.key for trial in finalists(first)]
    baselines = ["retain_model/forget10", "before/forget10"]
    search = [*baselines, "GA+GD/forget10/t000", "GA+GD/forget10/t001"]
    assert list(first.trials) == [
        *search,
        *(f"confirm/{key}" for key in baselines),
        *(f"confirm/{k}/s1" for k in chosen),
    ]
    assert "then the front of each cell again with 1 fresh seed, on the 50% of the questions" in done.stdout
    assert f"/{len(first.trials)}] confirm/{chosen[-1]}/s1" in done.stdout
    assert "With fresh seeds and on questions that the search never asked" in " ".join(done.stdout.split())

    resumed = tiny.run(["--resume", str(folder), "confirm.seeds=2"])
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    log = load_sweep(folder)
    assert list(log.trials) == [*first.trials, *(f"confirm/{key}/s2" for key in chosen)]
    for key, trial in first.trials.items():  # nothing ran again
        assert (log.trials[key].started, log.trials[key].finished) == (trial.started, trial.finished)
    assert {trial.finished.state for trial in log.trials.values()} == {TrialState.COMPLETE}

    seen, kept = asked(folder, log, confirming=False), asked(folder, log, confirming=True)
    assert seen and kept and not seen & kept
    for key in log.trials:
        assert len({row["set_name"] for row in tiny.scores(folder, key)}) == 3
    for key in chosen:
        runs = [log.trials[name] for name in (key, f"confirm/{key}/s1", f"confirm/{key}/s2")]
        assert len({trial.started.config["seed"] for trial in runs}) == 3
        assert len({tuple(step.loss for step in trial.steps) for trial in runs}) == 3  # other rows in another order
        one, other = (trial.finished.metrics for trial in runs[1:])
        assert one != other and "forget_quality" in one
        assert not (folder / "trials" / f"confirm/{key}/s1" / "model").exists()
        assert (folder / "trials" / key / "model").is_dir()
    page = (folder / "report.html").read_text()
    assert '<section id="confirmation">' in page and "2 of 2" in page
