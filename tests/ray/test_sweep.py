"""A whole sweep with real Ray, DeepSpeed and MLflow: what it leaves behind, and that it can be repeated and resumed."""

import hashlib
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from orchestrator.tracking.checkpoints import cell_front
from orchestrator.tracking.journal import TrialState, TrialTaken, read_records
from orchestrator.tracking.sweep_log import load_sweep
from orchestrator.worker.batches import Encoder
from orchestrator.worker.generate import generate
from orchestrator.worker.template import TEMPLATES, load_tokenizer
from tests.ray import tiny

pytestmark = pytest.mark.ray
CELL = "NPO+GD/forget10"
PLANTED = "P1anted-5ecret"


def outcome(log, key):
    """All of a trial that must not depend on where or when it ran."""
    trial = log.trials[key]
    return trial.started.params, trial.steps, trial.finished.state, trial.finished.metrics, trial.finished.scores_sha256


def test_journal_holds_every_trial_with_its_metrics(slot_sweep):
    _, folder = slot_sweep
    log = load_sweep(folder)
    assert list(log.trials) == [
        "retain_model/forget10", "before/forget10",
        "NPO+GD/forget10/t000", "IDK+AP/forget10/t000", "NPO+GD/forget10/t001", "IDK+AP/forget10/t001",
    ]  # fmt: skip
    assert log.ended is not None and log.ended.state == "done"
    for key, trial in log.trials.items():
        assert trial.finished.state == TrialState.COMPLETE, trial.finished.error
        assert {"model_utility", "forget_efficacy", "forget/rouge", "facts/entailment_score"} <= set(
            trial.finished.metrics
        )
        assert ("forget_quality" in trial.finished.metrics) == (key != "retain_model/forget10")
        assert trial.finished.judges["encoder"].startswith("all-MiniLM-L6-v2")
        content = (folder / trial.finished.scores_path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == trial.finished.scores_sha256
        assert len(tiny.scores(folder, key)) == 12  # 3 sets x 4 rows
        assert len(trial.steps) == (0 if trial.is_baseline else 5)  # 2 epochs x 10 rows / batch 4
    taken = [record.key for record in read_records(folder / "journal") if isinstance(record, TrialTaken)]
    assert taken == list(log.trials)  # by workers, each once


def test_first_trial_has_the_paper_settings(slot_sweep):
    log = load_sweep(slot_sweep[1])
    assert log.trials[f"{CELL}/t000"].started.params == {
        "train.learning_rate": 1e-3, "method.beta": 0.1, "method.forget_weight": 1.0,
    }  # fmt: skip


def test_weights_of_the_fronts_are_kept_and_differ_from_the_start(slot_sweep, models):
    _, folder = slot_sweep
    log = load_sweep(folder)
    start = load_file(models / "target" / "model.safetensors")
    for method in ("NPO+GD", "IDK+AP"):
        cell = log.cell(method, "forget10")
        wanted = {trial.started.key for trial in cell_front(log, cell)}
        assert {trial.started.key for trial in cell if trial.checkpoint} == wanted
        for key in wanted:
            weights = load_file(folder / "trials" / key / "model" / "model.safetensors")
            assert set(weights) == set(start)
            assert any((weights[name] != start[name]).any() for name in start)
        for trial in cell:
            assert (folder / "trials" / trial.started.key / "model").is_dir() == (trial.started.key in wanted)


def test_mlflow_holds_the_same_numbers(slot_sweep):
    _, folder = slot_sweep
    log = load_sweep(folder)
    with sqlite3.connect(folder.parent / "mlflow.db") as store:
        query = "select name, key, value from runs join latest_metrics using (run_uuid) where key = 'model_utility'"
        found = {name: value for name, _, value in store.execute(query)}
    assert found == {key: pytest.approx(trial.finished.metrics["model_utility"]) for key, trial in log.trials.items()}


def test_the_printed_command_exports_a_trial_that_answers_as_it_was_scored(slot_sweep, tmp_path):
    done, folder = slot_sweep
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("export   ")]
    command = shlex.split(line.removeprefix("export   "))
    key = command[3].removeprefix(f"{folder}/trials/")
    command[-1] = str(tmp_path / "forgot")
    exported = subprocess.run(
        command, cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, check=False
    )
    assert exported.returncode == 0, exported.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "forgot")
    encoder = Encoder(load_tokenizer(command[-1]), TEMPLATES["llama2-chat"], 80)
    said = {row["question"]: row["generation"] for row in tiny.scores(folder, key)}
    assert generate(model, encoder, list(said), batch_size=len(said)) == list(said.values())


def test_terminal_says_where_everything_is(slot_sweep):
    done, folder = slot_sweep
    assert f"report   {folder / 'report.html'}" in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stdout
    assert "2 methods x 1 forget sets x 2 trials = 4 trials on 1 slot x 2 workers" in done.stdout
    assert "NPO+GD/forget10/t001" in done.stdout
    assert "ActorDied" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    page = (folder / "report.html").read_text()
    assert "IDK+AP" in page and "retain_model" in page


def test_processes_give_what_slots_give_bit_for_bit(slot_sweep, models, tmp_path):
    """The second trial of a slot, with warm caches, against a fresh worker group; and nobody answers for MLflow."""
    more = ("methods=[NPO+GD]", "search.trials_per_cell=2", "resources.isolation=process")
    planted = {name: f"{PLANTED}-{name}" for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")}
    logs = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # Ray's sockets lie there too: no long name
    tracking = f"tracking.uri=http://user:{PLANTED}@127.0.0.1:9/?token={PLANTED}"
    done = tiny.run(tiny.settings(models, tmp_path, *more, tracking), RAY_TMPDIR=str(logs), **planted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("takes no records") == 1
    assert "records are not there yet" in done.stdout and "orchestrator.sync" in done.stdout
    assert PLANTED not in done.stdout + done.stderr
    written = [path for place in (tmp_path, logs) for path in place.rglob("*") if path.is_file()]
    assert {"000001.jsonl", "report.html", "raylet.out"} <= {path.name for path in written}
    assert [path for path in written if PLANTED.encode() in path.read_bytes()] == []
    shutil.rmtree(logs)
    slot, process = load_sweep(slot_sweep[1]), load_sweep(tiny.sweep_folder(tmp_path))
    for number in (0, 1):
        assert outcome(process, f"{CELL}/t{number:03d}") == outcome(slot, f"{CELL}/t{number:03d}")


def test_interrupted_sweep_is_resumed_to_the_same_end(slot_sweep, models, tmp_path):
    arguments = tiny.settings(models, tmp_path, "methods=[NPO+GD,IDK+AP]", "search.trials_per_cell=2")
    sweep = tiny.start(arguments)
    seen = []
    for line in sweep.stdout:
        seen.append(line)
        if f"{CELL}/t000" in line:
            sweep.send_signal(signal.SIGINT)
            break
    rest = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130, "".join(seen) + rest
    folder = tiny.sweep_folder(tmp_path)
    assert f"--resume {folder}" in rest
    cut_off = load_sweep(folder)
    assert cut_off.ended.state == "interrupted"
    kept = {key for key, trial in cut_off.trials.items() if trial.finished}
    assert f"{CELL}/t000" in kept and f"{CELL}/t001" not in kept

    done = tiny.run(["--resume", str(folder)])
    assert done.returncode == 0, done.stdout + done.stderr
    whole, resumed = load_sweep(slot_sweep[1]), load_sweep(folder)
    assert resumed.ended.state == "done"
    assert {key: outcome(resumed, key) for key in whole.trials} == {key: outcome(whole, key) for key in whole.trials}
    times = {key: resumed.trials[key].finished.time for key in kept}
    assert times == {key: cut_off.trials[key].finished.time for key in kept}  # finished trials did not run again


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("search.space.train.learning_rate.high=1", "search: cannot change when a sweep is resumed"),
        ("seed=7", "seed: cannot change when a sweep is resumed (it was 42, now 7)"),
        ("search.trials_per_cell=1", "search: cannot change when a sweep is resumed"),
    ],
)
def test_resume_refuses_what_would_make_another_sweep(slot_sweep, setting, words):
    done = tiny.run(["--resume", str(slot_sweep[1]), setting])
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words}")


def test_more_workers_than_the_cluster_can_have_is_refused_after_connecting(models, tmp_path):
    done = tiny.run(tiny.settings(models, tmp_path, "resources.workers_per_trial=500"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: resources.workers_per_trial=500: a trial needs that many workers")
    assert not list(tmp_path.glob("*/journal"))


def test_a_sweep_ends_in_good_order_when_its_time_is_spent(models, tmp_path):
    more = ("methods=[GA+GD]", "search.trials_per_cell=1000", "search.sampler=random", "resources.max_hours=0.015")
    done = tiny.run(tiny.settings(models, tmp_path, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tiny.sweep_folder(tmp_path)
    assert f"resources.max_hours=0.015 is spent; raise it to go on with  {sys.executable}" in done.stdout
    log = load_sweep(folder)
    assert log.ended.state == "budget spent" and log.spent()[0] >= 54
    assert log.trials and len(log.searched()) < 1000  # a slow machine may spend it on the baselines
    assert {trial.finished.state for trial in log.trials.values()} == {TrialState.COMPLETE}
