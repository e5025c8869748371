"""What may change when a sweep is resumed, and what may not."""

import io
import json

import pytest
from rich.console import Console

from orchestrator import session
from orchestrator.config import SweepConfig
from orchestrator.embedded import with_folders
from orchestrator.load_config import ConfigError, build_config, load_config
from orchestrator.scenarios.digest import describe_data
from orchestrator.scenarios.load import load_tasks
from orchestrator.storage import Storage
from orchestrator.tracking.journal import Journal, SweepStarted, TrialFinished, TrialStarted
from orchestrator.tracking.kept_journal import open_journal
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import folders, tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    tiny.make_models(folder)
    folders.write_real_world(folder / "data")
    return folder


def just_started(sweep, folder, data=None):
    journal = Journal(folder / "journal")
    journal.append(
        SweepStarted(
            name=sweep.name, seed=42, config=sweep.model_dump(mode="json"), cells=(), objectives=(), lookahead=1,
            versions={}, command="", data=data or {},
        )
    )  # fmt: skip
    journal.close()
    return folder


@pytest.fixture
def sweep_folder(place, tmp_path):
    """A sweep that was just started: a grid of six for GA+GD, of which four run, and one trial of ME+GD."""
    overrides = [
        f"storage={tmp_path}", f"scenario.source={place / 'data'}", f"model.target={place / 'target'}",
        "methods=[GA+GD, {name: ME+GD, space: {}, train: {learning_rate: 5.0e-6}}]", "search.trials_per_cell=4",
        "train.batch_size=8", "resources.gpus_per_worker=0",
    ]  # fmt: skip
    sweep = load_config("real_world_paper", overrides)
    return just_started(sweep, tmp_path / "sweep")


def resume(folder, *overrides):
    out = io.StringIO()
    return session.resume(str(folder), overrides, Console(file=out, width=300)).sweep, out.getvalue()


def test_a_sweep_is_resumed_with_the_settings_that_it_had(sweep_folder, place):
    sweep, out = resume(sweep_folder)
    assert [entry.space for entry in sweep.methods] == [None, {}]
    assert sweep.scenario.source == str(place / "data")
    assert "search.trials_per_cell=4 stops after the first 4 of 6 combinations" in out


@pytest.mark.parametrize(
    "override",
    [
        "search.trials_per_cell=6",
        "resources.workers_per_trial=1",
        "checkpoint.policy=none",
        "tracking.uri=http://127.0.0.1:9",
        "methods=[GA+GD, {name: ME+GD, space: {}, train: {learning_rate: 5.0e-6}}, NPO+GD]",
    ],
)
def test_what_may_change(sweep_folder, override):
    sweep, _ = resume(sweep_folder, override)
    key, _, value = override.partition("=")
    if key == "methods":
        assert [entry.name for entry in sweep.methods] == ["GA+GD", "ME+GD", "NPO+GD"]
    else:
        section, _, name = key.partition(".")
        assert str(getattr(getattr(sweep, section), name)) == value


@pytest.mark.parametrize(
    "override",
    [
        "lora={}",
        "evaluation.downstream=[]",
        "evaluation.downstream_limit=10",
        "evaluation.max_rows_per_set=4",
        "search.trials_per_cell=3",
        "search.sampler=random",
        "search.space.train.epochs.choices=[5]",
        "methods=[GA+GD]",
        "methods=[GA+GD, ME+GD]",
        "scenario.refusals=README.md",
        "model.template=phi",
        "train.epochs=6",
        "zero.stage=2",
        "seed=1",
    ],
)
def test_what_would_make_another_sweep(sweep_folder, override):
    key = override.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=f"^{key}: cannot change when a sweep is resumed"):
        resume(sweep_folder, override)


@pytest.fixture
def tofu_folder(place, tmp_path):
    """A sweep of TOFU that was just started: one forget set with its retain set."""
    if not (place / "tofu").exists():
        folders.write_tofu(place / "tofu")
    overrides = [
        f"storage={tmp_path}", f"scenario.source={place / 'tofu'}", f"model.target={place / 'target'}",
        "scenario.retain_sets={forget05: retain95}",
        "methods=[GA]", "forget_sets=[forget05]", "train.batch_size=8", "resources.gpus_per_worker=0",
        f"evaluation.entailment={place / 'judge'}",
    ]  # fmt: skip
    sweep = load_config("tofu_search", overrides)
    return just_started(sweep, tmp_path / "sweep")


def test_an_added_forget_set_brings_its_retain_set_and_log(tofu_folder, tmp_path):
    log = {"set_name": "forget", "question": "Where is Ada of forget01 1?", "base_nll": 1.0, "perturbed_nll": [2.0]}
    (tmp_path / "log.jsonl").write_text(json.dumps(log) + "\n")
    grown = ["forget_sets=[forget05, forget01]", "scenario.retain_sets.forget01=retain99"]
    sweep, _ = resume(tofu_folder, *grown, f"scenario.retain_logs.forget01={tmp_path / 'log.jsonl'}")
    assert sweep.scenario.retain_sets == {"forget05": "retain95", "forget01": "retain99"}
    assert list(sweep.scenario.retain_logs) == ["forget01"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("scenario.retain_sets.forget05=retain90",),
        ("scenario.retain_logs={forget05: log.jsonl}",),
        ("scenario.task_id=1", "scenario.retain_sets.forget01=retain99"),
    ],
)
def test_a_forget_set_that_was_there_keeps_its_data(tofu_folder, overrides):
    with pytest.raises(ConfigError, match="^scenario: cannot change when a sweep is resumed"):
        resume(tofu_folder, *overrides)


def test_a_retain_model_comes_with_its_forget_set_only(tofu_folder, place):
    added = f"model.retain_models.forget01={place / 'retain'}"
    more = ("forget_sets=[forget05, forget01]", "scenario.retain_sets.forget01=retain99", added)
    assert set(resume(tofu_folder, *more)[0].model.retain_models) == {"forget01"}
    with pytest.raises(ConfigError, match="^model: cannot change when a sweep is resumed"):
        resume(tofu_folder, f"model.retain_models.forget05={place / 'target'}")


def test_data_that_was_edited_since_is_refused(tofu_folder, tmp_path):
    folders.write_tofu(tmp_path / "data")
    base = load_sweep(tofu_folder).header.config
    sweep = build_config(SweepConfig, None, [f"scenario.source={tmp_path / 'data'}"], base=base)
    chain = load_tasks(sweep.scenario, sweep.evaluation, "forget05")
    folder = just_started(sweep, tmp_path / "edited", {"forget05": describe_data(sweep.scenario, chain)})
    resume(folder)
    dry_run_of_rest(folder)
    path = tmp_path / "data" / "retain95.json"
    path.write_text(path.read_text() + json.dumps({"question": "New?", "answer": "Yes."}) + "\n")
    for door in (resume, dry_run_of_rest):
        with pytest.raises(ConfigError, match="^forget_sets: the retain rows of forget05 are not those"):
            door(folder)


@pytest.fixture
def held_out_folder(place, tmp_path):
    """A sweep that was just started and leaves half of the questions for later."""
    overrides = [f"storage={tmp_path}", f"model.target={place / 'target'}", "model.retain_models={}", "confirm.seeds=2",
                 f"evaluation.entailment={place / 'judge'}"]  # fmt: skip
    sweep = load_config("quickstart", overrides)
    return just_started(sweep, tmp_path / "sweep")


def test_finalists_may_get_more_seeds(held_out_folder):
    assert resume(held_out_folder, "confirm.seeds=4", "confirm.held_out=0.5")[0].confirm.share == 0.5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("confirm.seeds=1", r"confirm.seeds: can only go up when a sweep is resumed \(it was 2, now 1\)"),
        ("confirm.held_out=0.4", "confirm.held_out: .* was scored on all but 0.5 of the questions"),
        ("confirm.seeds=0", r"confirm.held_out: cannot change when a sweep is resumed \(it was 0.5, now None\)"),
    ],
)
def test_what_the_search_has_seen_stays_what_it_was(held_out_folder, override, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        resume(held_out_folder, override)


def test_a_search_that_asked_everything_cannot_be_confirmed(sweep_folder):
    words = "was scored on all questions, and what it has seen confirms nothing; start a new sweep, or leave confirm"
    with pytest.raises(ConfigError, match=f"^confirm.held_out: .*{words}"):
        resume(sweep_folder, "confirm.held_out=0.5")


def dry_run_of_rest(place, *overrides, given=None):
    out = io.StringIO()
    session.dry_run_of_rest(str(place), overrides, Console(file=out, width=300), given)
    return out.getvalue()


def ended(method, number, seconds=600.0, **how):
    """The records of a trial."""
    key = f"{method}/forget/t{number:03}"
    values = dict(key=key, method=method, forget_set="forget", number=number, params={}, config={}, time=0)
    how = dict(state="COMPLETE") | how
    return TrialStarted(**values), TrialFinished(key=key, time=seconds, **how)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_ended(journal):
    """Of five trials two are done; the third failed for a reason that lies elsewhere, and is tried again."""
    for trial in (ended("GA+GD", 0), ended("GA+GD", 1, 1.0, state="FAILED", retry=True), ended("ME+GD", 0)):
        for record in trial:
            journal.append(record)


def test_a_dry_run_tells_what_is_left_of_a_sweep_that_is_running(sweep_folder, tmp_path):
    config = SweepConfig.model_validate(load_sweep(sweep_folder).header.config)
    later = Journal(just_started(config, tmp_path / "later") / "journal")  # not this sweep's trials
    for record in ended("GA+GD", 0, 9e9):
        later.append(record)
    later.close()
    running = Journal(sweep_folder / "journal")
    write_ended(running)
    before = files(tmp_path)
    out = dry_run_of_rest(sweep_folder, "resources.max_workers=1")
    assert "= 5 trials\n  2 of them are done, 3 are left\n" in out
    assert "took 10 min (median of 2); 3 such trials on 1 slot take about 30 min, baselines" in out
    assert "dry run: nothing was started" in out and files(tmp_path) == before
    out = dry_run_of_rest(sweep_folder, "resources.max_workers=1", "search.trials_per_cell=6")
    assert "  2 of them are done, 5 are left\n" in out and "5 such trials on 1 slot take about 50 min" in out
    for record in (*ended("GA+GD", 1), *ended("GA+GD", 2), *ended("GA+GD", 3, state="FAILED")):
        running.append(record)
    assert "time: no trial is left to run\n" in dry_run_of_rest(sweep_folder)
    running.close()


def test_before_a_trial_is_whole_those_of_sweeps_like_it_tell_the_time(sweep_folder, tmp_path):
    config = SweepConfig.model_validate(load_sweep(sweep_folder).header.config)
    other = Journal(just_started(config, tmp_path / "other") / "journal")
    for record in ended("GA+GD", 0, 300.0):
        other.append(record)
    other.close()
    assert "took 5.0 min (median of 1); 5 such trials on 1 slot" in dry_run_of_rest(
        sweep_folder, "resources.max_workers=1"
    )


def test_a_dry_run_reads_a_store_beside_the_sweep_that_writes_there(sweep_folder, store_uri, tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_COPIES", str(tmp_path / "copies"))
    running = open_journal(Storage(tmp_path / "elsewhere", store_uri))
    running.append(load_sweep(sweep_folder).header)
    write_ended(running)
    names = Storage(tmp_path / "look", store_uri).sub("journal").names()
    assert "lease.json" in names
    out = dry_run_of_rest(store_uri)
    assert "  2 of them are done, 3 are left\n" in out and "took 10 min (median of 2); 3 such trials" in out
    assert Storage(tmp_path / "look", store_uri).sub("journal").names() == names
    running.append(ended("GA+GD", 1)[1])  # it still has the lease
    running.close()


def test_a_dry_run_makes_nothing_of_what_is_embedded(tmp_path):
    given = load_config("quickstart", [f"storage={tmp_path}"])
    new = dry_run_of_rest(tmp_path / "new", given=given)
    assert "time: not known before" in new and "are left" not in new
    folder = just_started(with_folders(given), tmp_path / "sweep")
    before = files(tmp_path)
    out = dry_run_of_rest(folder, given=given)
    assert "  0 of them are done" in out and "target: embedded" in out
    assert files(tmp_path) == before and not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="^seed: cannot change when a sweep is resumed"):
        dry_run_of_rest(folder, given=load_config("quickstart", [f"storage={tmp_path}", "seed=1"]))
