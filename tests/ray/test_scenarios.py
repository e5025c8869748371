"""Shipped sweeps of every scenario, cut down to tiny models and a few rows, with real Ray, DeepSpeed and MLflow."""

import json
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest

from orchestrator.tracking.journal import TaskFinished, TrialState, read_records
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import folders, tiny

pytestmark = pytest.mark.ray
CHAIN = "NPO+GD/forget01/t000"
STEPS_PER_TASK = 24  # 12 epochs x 8 rows / batch 4
FACTS = """task: facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of TOFU's and of the real world's layout, and a downstream task."""
    folder = tmp_path_factory.mktemp("data")
    folders.write_tofu(folder / "tofu")
    folders.write_real_world(folder / "real_world")
    (folder / "tasks").mkdir()
    documents = [{"question": f"Where is {name}?", "choices": list(folders.PLACES)} for name in folders.NAMES]
    (folder / "tasks" / "facts.json").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "tasks" / "facts.yaml").write_text(FACTS.format(path=folder / "tasks" / "facts.json"))
    return folder


def settings(name, models, storage, source, *more):
    """A shipped sweep on random weights, without GPUs; what is not named here is as shipped."""
    return [
        name,
        f"storage={storage}",
        f"scenario.source={source}",
        f"model.target={models / 'target'}",
        "model.dtype=auto",
        "train.batch_size=4",
        "train.micro_batch_size=2",
        "train.max_length=128",
        "evaluation.max_length=128",
        "evaluation.max_rows_per_set=4",
        "evaluation.encoder=embedded",
        f"evaluation.entailment={models / 'judge'}",
        "resources.gpus_per_worker=0",
        *more,
    ]


def chain_settings(models, storage, data, methods):
    return settings(
        "continual_paper", models, storage, data / "tofu", f"methods=[{methods}]", "forget_sets=[forget01]",
        "scenario.num_tasks=3", "train.epochs=12", "train.learning_rate=1.0e-4",
    )  # fmt: skip


def run(storage, arguments):
    """Run a sweep to its end: what it printed, its folder, its journal."""
    done = tiny.run(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tiny.sweep_folder(storage)
    log = load_sweep(folder)
    assert log.ended is not None and log.ended.state == "done"
    for trial in log.trials.values():
        assert trial.finished.state == TrialState.COMPLETE, trial.finished.error
        assert set(log.trials[next(iter(log.trials))].finished.metrics) == set(trial.finished.metrics)
    return done.stdout, folder, log


def curve(folder, key, metric):
    """Step and value of a metric of a run in MLflow."""
    with sqlite3.connect(folder.parent / "mlflow.db") as store:
        query = (
            "select step, value from metrics join runs using (run_uuid) where runs.name = ? and key = ? order by step"
        )
        return [tuple(row) for row in store.execute(query, (key, metric))]


def test_tofu_search(models, data, tmp_path):
    overrides = ("methods=[DPO+KL, IDK+AP]", "forget_sets=[forget05]", "scenario.task_id=2", "train.epochs=2")
    epochs = "search.space.train.epochs.choices=[1, 2]"
    more = ("search.trials_per_cell=2", "search.startup_trials=1", epochs)
    out, folder, log = run(tmp_path, settings("tofu_search", models, tmp_path, data / "tofu", *overrides, *more))
    assert "2 methods x 1 forget sets x 2 trials = 4 trials" in out
    assert list(log.trials) == [
        "before/forget05",
        *(f"{method}/forget05/t00{number}" for number in (0, 1) for method in ("DPO+KL", "IDK+AP")),
    ]
    assert log.trials["DPO+KL/forget05/t000"].started.params == {
        "train.learning_rate": 1e-5, "train.epochs": 2, "method.beta": 0.1, "method.forget_weight": 1.0,
    }  # fmt: skip
    assert {"tofu_model_utility", "authors/rouge"} <= set(log.trials["before/forget05"].finished.metrics)
    asked = {row["question"] for row in tiny.scores(folder, "before/forget05") if row["set_name"] == "forget"}
    assert len(asked) == 4 and all("of forget05 2?" in question for question in asked)
    page = (folder / "report.html").read_text()
    assert "DPO+KL" in page and "IDK+AP" in page


def test_real_world_paper(models, data, tmp_path):
    """Two grids cut by the budget beside a method with nothing to search; scored on a downstream task too."""
    methods = "methods=[GA+KL, {name: ME+GD, forget_weight: 0.5, train: {learning_rate: 1.0e-4}, space: {}}]"
    more = (
        methods,
        "search.space.train.learning_rate.choices=[1.0e-4, 1.0e-5]",
        "search.space.train.epochs.choices=[2, 1]",
        "search.trials_per_cell=3",
        "evaluation.downstream=[facts]",
        f"evaluation.downstream_tasks={data / 'tasks'}",
    )
    arguments = settings("real_world_paper", models, tmp_path, data / "real_world", *more)
    out, folder, log = run(tmp_path, arguments)
    assert "2 methods x 1 forget sets x 1 to 3 trials = 4 trials" in out
    assert "note: GA+KL: search.trials_per_cell=3 stops after the first 3 of 4 combinations" in out
    found = {key: tuple(trial.started.params.values()) for key, trial in log.trials.items()}
    assert found == {
        "before/forget": (), "GA+KL/forget/t000": (1e-4, 2), "ME+GD/forget/t000": (), "GA+KL/forget/t001": (1e-4, 1),
        "GA+KL/forget/t002": (1e-5, 2),
    }  # fmt: skip
    assert [len(log.trials[key].steps) for key in found] == [0, 4, 10, 2, 4]
    metrics = log.trials["ME+GD/forget/t000"].finished.metrics
    assert {"neighbor/rouge", "forget/entailment_score", "model_utility"} <= set(metrics)
    assert "neighbor" in (folder / "report.html").read_text()
    for metric in ("model_utility", "downstream/facts"):
        assert 0 <= metrics[metric] <= 1
        assert curve(folder, "ME+GD/forget/t000", metric)[-1][1] == pytest.approx(metrics[metric])


@pytest.fixture(scope="module")
def chains(models, data, tmp_path_factory):
    """continual_paper with two methods, three tasks each."""
    storage = tmp_path_factory.mktemp("chains")
    return run(storage, chain_settings(models, storage, data, "NPO+GD, IDK+AP"))


def test_continual_paper(chains):
    out, folder, log = chains
    assert "2 methods x 1 forget sets x 1 trials = 2 trials" in out
    assert list(log.trials) == ["before/forget01", CHAIN, "IDK+AP/forget01/t000"]
    for key, trial in log.trials.items():
        assert [(task.task, task.name) for task in trial.tasks] == [(1, "1"), (2, "2"), (3, "3")]
        own = [task.metrics["forget_efficacy"] for task in trial.tasks]
        assert trial.finished.metrics["forget_efficacy"] == pytest.approx(sum(own) / 3)
        assert trial.finished.metrics["model_utility"] == trial.tasks[-1].metrics["model_utility"]
        assert curve(folder, key, "task/forget_efficacy") == [(n, pytest.approx(v)) for n, v in enumerate(own, 1)]
        assert [step.step for step in trial.steps] == list(range(0 if trial.is_baseline else 3 * STEPS_PER_TASK))
        if not trial.is_baseline:  # every task has a schedule of its own: no step before it warms up
            rates = [step.learning_rate for step in trial.steps]
            assert rates[0] == rates[STEPS_PER_TASK] == rates[2 * STEPS_PER_TASK] == 0
            assert max(rates) == pytest.approx(1e-4)
            assert not (folder / "trials" / key / "resume").exists()
            assert (folder / "trials" / key / "model" / "model.safetensors").is_file()
    assert "relapse" in (folder / "report.html").read_text().lower()


@pytest.mark.chaos
def test_a_chain_whose_worker_is_killed_goes_on_after_its_last_finished_task(chains, models, data, tmp_path):
    command = [sys.executable, "-m", "orchestrator.sweep", *chain_settings(models, tmp_path, data, "NPO+GD")]
    sweep = subprocess.Popen(
        command, cwd=tiny.ROOT, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_task(sweep, tmp_path)
    workers = [
        process
        for process in psutil.Process(sweep.pid).children(recursive=True)
        if process.cmdline() and process.cmdline()[0].startswith("ray::RayTrainWorker")
    ]
    workers[-1].send_signal(signal.SIGKILL)
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    folder = tiny.sweep_folder(tmp_path)
    told = [r for r in read_records(folder / "journal") if isinstance(r, TaskFinished) and r.key == CHAIN]
    assert [record.task for record in told] == [1, 1, 2, 3]
    assert told[0] == told[1]  # the same record told again, not the task done again
    whole, resumed = chains[2].trials[CHAIN], load_sweep(folder).trials[CHAIN]
    assert resumed.steps == whole.steps
    assert resumed.finished.metrics == whole.finished.metrics
    assert resumed.finished.scores_sha256 == whole.finished.scores_sha256
    assert [task.scores_sha256 for task in resumed.tasks] == [task.scores_sha256 for task in whole.tasks]


def wait_for_task(sweep, storage):
    """Until the first task of the trial is in the journal."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and sweep.poll() is None:
        for segment in storage.glob("*/journal/*.jsonl"):
            lines = segment.read_text().splitlines()
            if any('"kind":"task_finished"' in line and CHAIN in line for line in lines):
                return
        time.sleep(0.05)
    pytest.fail("no task: " + sweep.communicate(timeout=60)[0])
