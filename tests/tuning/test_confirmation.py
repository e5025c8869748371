"""The front of each cell once more, with fresh seeds, on held-out questions; slots are simulated."""

import itertools
from collections import Counter

import pytest
from ray.tune.search import Searcher

from benchmarks.simulated_slot import reports
from orchestrator.load_config import load_config
from orchestrator.session import Study, _header
from orchestrator.storage import Storage
from orchestrator.tracking.confirmation import chosen, confirmation_runs, finalists, num_seeds
from orchestrator.tracking.journal import (
    Journal,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
    read_records,
)
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import SweepLog, load_sweep
from orchestrator.trial_config import QuestionPart
from orchestrator.tuning.resources import Plan
from orchestrator.tuning.search import Search
from orchestrator.worker.job import TrialJob

PLAN = Plan(2, 2, 4, 4)


class KilledError(Exception):
    """The driver is gone."""


def sweep_in(folder, *more):
    overrides = [
        f"storage={folder}", "methods=[GA+GD, NPO+GD]", "forget_sets=[forget10]", "search.trials_per_cell=4",
        "model.target=made/target", "model.retain_models={forget10: made/retain}", "checkpoint.policy=none",
        "train.epochs=1", "confirm.seeds=2", *more,
    ]  # fmt: skip
    return load_config("quickstart", overrides)


class Sitting:
    """A driver from the journal's start or end to the end of the sweep, or to a record after which it is killed."""

    def __init__(self, sweep, *, kill_after=None, answer=reports):
        self.sweep, self.folder = sweep, sweep.storage_root / "sweep"
        log = load_sweep(self.folder) if (self.folder / "journal").exists() else None
        header = _header(Study(sweep, Storage(self.folder), log, {}), PLAN, log)
        self.journal = Journal(self.folder / "journal")
        self.recorder = Recorder(self.journal, log or SweepLog(header), [self.count])
        self.left, self.answer = kill_after, answer
        self.recorder.record(header)

    def count(self, record):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledError

    def run(self, at_a_time=2):
        """Returns the searcher; as Tune does, it never asks again once it was told that nothing is left."""
        searcher = Search(self.sweep, Storage(self.folder), self.recorder).searcher(PLAN)
        flights, finished, numbers = [], False, map(str, itertools.count())
        try:
            while True:
                while len(flights) < at_a_time and not finished:
                    name = next(numbers)
                    suggestion = searcher.suggest(name)
                    finished = suggestion == Searcher.FINISHED
                    if suggestion is None or finished:
                        break
                    flights.append((name, TrialJob.model_validate_json(suggestion["job"])))
                if not flights:
                    assert finished, "nothing runs, and nothing is suggested"
                    return searcher
                name, job = flights.pop(0)
                for number, record in enumerate(self.answer(job)):
                    result = {"slot": "s", "report": number, "record": record.model_dump_json()}
                    searcher.on_trial_result(name, result)
                searcher.on_trial_complete(name, result)
        except KilledError:
            return None
        finally:
            self.journal.close()


def outcome(folder):
    """What became of each trial, whenever it ran."""
    return {
        key: (trial.started.params, trial.started.config, trial.started.confirms, trial.finished.objectives)
        for key, trial in load_sweep(folder).trials.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    sitting = Sitting(sweep_in(tmp_path_factory.mktemp("whole")))
    return sitting.run(), load_sweep(sitting.folder), sitting.folder


def test_fronts_are_run_again_after_the_last_trial_of_the_search(whole):
    searcher, log, folder = whole
    chosen = finalists(log)
    assert searcher.is_done and searcher.num_left == 0 and 2 <= len(chosen) < 8
    keys = list(log.trials)
    assert keys[:2] == ["retain_model/forget10", "before/forget10"] and len(log.searched()) == 8
    confirming = keys[10:]
    assert confirming[:2] == ["confirm/retain_model/forget10", "confirm/before/forget10"]
    assert confirming[2:] == [f"confirm/{trial.started.key}/s{seed}" for seed in (1, 2) for trial in chosen]
    ends = {key: trial.finished.time for key, trial in log.trials.items()}
    assert min(log.trials[key].started.time for key in confirming) >= max(ends[key] for key in keys[:10])
    assert Counter(r.key for r in read_records(folder / "journal") if isinstance(r, TrialFinished)) == dict.fromkeys(
        keys, 1
    )  # fmt: skip


def test_a_cell_may_send_fewer_finalists_than_its_front_has(whole):
    _, log, _ = whole
    fronts, few = finalists(log), finalists(log, 1)
    cells = {trial.started.method for trial in fronts}
    assert len(fronts) > len(few) == len(cells) and {trial.started.method for trial in few} == cells
    assert {trial.started.key for trial in few} < {trial.started.key for trial in fronts}
    values = [(0.0, 1.0), (0.6, 0.6), (0.65, 0.5), (1.0, 0.0)]  # the knee, then what is farthest from it
    assert chosen(values, ["maximize", "maximize"], 1) == [1]
    assert chosen(values, ["maximize", "maximize"], 3) == [0, 1, 3]
    assert chosen(values, ["maximize", "maximize"], 9) == chosen(values, ["maximize", "maximize"], None) == [0, 1, 2, 3]


def test_a_run_differs_from_its_finalist_by_seed_and_questions_alone(whole):
    _, log, _ = whole
    seeds = {}
    for key, trial in log.trials.items():
        started = trial.started
        part = started.config["questions"]
        if started.confirms is None:
            assert part == QuestionPart(part="search", held_out=0.5).model_dump()
            continue
        confirmed = log.trials[started.confirms].started
        assert part == QuestionPart(part="held_out", held_out=0.5).model_dump()
        assert (started.params, started.method) == (confirmed.params, confirmed.method)
        changed = {name for name in started.config if started.config[name] != confirmed.config[name]}
        assert changed == {"questions", "evaluation"} | (set() if trial.is_baseline else {"seed"})
        assert trial.finished.checkpoint is None
        seeds.setdefault(started.number, set()).add(started.config["seed"])
        assert key == f"confirm/{started.confirms}" + ("" if trial.is_baseline else f"/s{started.number}")
    assert seeds[None] == {log.header.seed} and len(seeds[1] | seeds[2]) == 2 and log.header.seed not in seeds[1]


def test_no_study_and_no_cell_learns_of_them(whole, tmp_path):
    searcher, log, _ = whole
    assert [len(cell.study._study.trials) for cell in searcher._cells] == [4, 4]
    assert [len(log.cell(method, "forget10")) for method in ("GA+GD", "NPO+GD")] == [4, 4]
    plain = Sitting(sweep_in(tmp_path, "confirm.seeds=0", "confirm.held_out=0.5"))
    plain.run()
    same = outcome(plain.folder)
    assert same == {key: value for key, value in outcome(whole[2]).items() if key in same} and len(same) == 10


def test_forget_quality_compares_answers_to_the_same_questions(tmp_path):
    jobs = {}

    def answer(job):
        jobs[job.key] = job
        return reports(job)

    Sitting(sweep_in(tmp_path), answer=answer).run()
    for key, job in jobs.items():
        prefix = "confirm/" if key.startswith("confirm/") else ""
        known = None if "retain_model" in key else f"trials/{prefix}retain_model/forget10/examples.jsonl"
        assert job.retain_scores == known and (not prefix or not job.keep_weights)


def test_killed_after_any_record_and_resumed_it_is_the_same(whole, tmp_path):
    expected, records = outcome(whole[2]), list(read_records(whole[2] / "journal"))
    first = next(i for i, r in enumerate(records) if isinstance(r, TrialStarted) and r.confirms)
    for kill_after in (*range(1, first - 4, 5), *range(first - 4, len(records))):
        sweep = sweep_in(tmp_path / str(kill_after))
        assert Sitting(sweep, kill_after=kill_after).run() is None or kill_after == len(records) - 1
        second = Sitting(sweep)
        assert second.run().is_done
        ended = Counter(r.key for r in read_records(second.folder / "journal") if isinstance(r, TrialFinished))
        assert ended == dict.fromkeys(expected, 1)
        assert outcome(second.folder) == expected


def test_more_seeds_on_resume_run_those_alone(tmp_path):
    first = Sitting(sweep_in(tmp_path))
    first.run()
    before = set(load_sweep(first.folder).trials)
    Sitting(sweep_in(tmp_path, "confirm.seeds=3")).run()
    log = load_sweep(first.folder)
    assert set(log.trials) - before == {f"confirm/{trial.started.key}/s3" for trial in finalists(log)}


def test_once_the_budget_is_spent_nothing_more_is_confirmed(tmp_path):
    sitting = Sitting(sweep_in(tmp_path))
    searcher = Search(sitting.sweep, Storage(sitting.folder), sitting.recorder).searcher(PLAN)
    searcher._budget = lambda: "resources.max_hours=1" if len(sitting.recorder.log.trials) == 12 else None
    Search.searcher, original = lambda self, plan: searcher, Search.searcher
    try:
        sitting.run()
    finally:
        Search.searcher = original
    assert searcher.spent == "resources.max_hours=1" and searcher.is_done
    assert searcher.num_left == len(confirmation_runs(sitting.recorder.log, 2)) - 2
    assert Sitting(sitting.sweep).run().spent is None


def test_a_run_that_fails_is_the_only_one_but_a_model_that_cannot_be_scored_ends_the_search(tmp_path):
    def failing(prefix):
        def answer(job):
            if job.key.startswith(prefix):
                return [TrialFinished(key=job.key, state=TrialState.FAILED, error="no judge", retry=True)]
            return reports(job)

        return answer

    sitting = Sitting(sweep_in(tmp_path), answer=failing("confirm/before"))
    assert sitting.run().fatal == "confirm/before/forget10 could not be scored: no judge"
    again = Sitting(sitting.sweep, answer=failing("confirm/GA+GD")).run()
    assert again.fatal is None and again.is_done
    states = {key: trial.finished.state for key, trial in load_sweep(sitting.folder).trials.items()}
    assert states["confirm/before/forget10"] == TrialState.COMPLETE
    failed = {key for key, state in states.items() if state == TrialState.FAILED}
    assert failed and all(key.startswith("confirm/GA+GD") for key in failed)
    Sitting(sitting.sweep).run()  # the reason lay outside of them
    assert all(trial.finished.state != TrialState.FAILED for trial in load_sweep(sitting.folder).trials.values())


def test_without_a_complete_trial_there_is_nothing_to_confirm(tmp_path):
    def answer(job):
        if job.config.method is None:
            return reports(job)
        return [TrialFinished(key=job.key, state=TrialState.DIVERGED, objectives=(0.0, 0.0), error="not finite")]

    sitting = Sitting(sweep_in(tmp_path), answer=answer)
    assert sitting.run().is_done
    assert len(load_sweep(sitting.folder).trials) == 10


def test_a_journal_of_before_has_no_seeds():
    header = SweepStarted(
        name="s", seed=1, config={}, cells=(), objectives=(), lookahead=1, versions={}, command=""
    )  # fmt: skip
    assert num_seeds(header.config) == 0 and confirmation_runs(SweepLog(header), 3) == []
