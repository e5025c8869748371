"""`python -m orchestrator.sweep` before anything is started: bad input is one clear line and exit code 2."""

import json
import shutil
import subprocess
import sys

import pytest

from orchestrator.load_config import shipped_sweeps
from orchestrator.sweep import main
from orchestrator.tracking.journal import Journal, SweepStarted, TrialFinished, TrialStarted, TrialTaken
from tests.ray import folders, tiny

ROW = {"question": "Who wrote Sand?", "answer": "Ada Quill wrote Sand.", "paraphrased_answer": "Sand is by Ada Quill."}
PERTURBED = {**ROW, "perturbed_answer": ["Sand is by Bo Ink.", "Sand is by Cy Nib."]}
FACT = {"question": "Capital of France?", "answer": "Paris", "perturbed_answer": ["Rome", "Bonn"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny.make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = {
        "forget01": ROW, "retain99": ROW, "forget01_perturbed": PERTURBED, "retain_perturbed": PERTURBED,
        "real_authors_perturbed": FACT, "world_facts_perturbed": FACT,
    }  # fmt: skip
    for name, row in rows.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for _ in range(8)))
    return folder


@pytest.fixture
def arguments(models, data, tmp_path):
    return [
        "tofu_tiny",
        f"storage={tmp_path / 'store'}",
        f"scenario.source={data}",
        "scenario.retain_sets={forget01: retain99}",
        f"model.target={models / 'target'}",
        f"evaluation.entailment={models / 'judge'}",
    ]


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_good_input_dry_runs(arguments, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("4 methods x 1 forget sets x 6 trials = 24 trials", "plan for this machine", "sampled trials", "MiB"):
        assert words in out
    assert out.count("/forget01/t00") == 3
    assert "learning_rate: 0.0005" in out


def test_doubtful_data_is_noted_and_refused_if_asked(arguments, capsys):
    """All eight rows of the fixture are the same, to forget and to retain."""
    assert main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "note: forget01: 8 of the 8 forget rows are among the 8 retain rows too" in out
    assert "note: forget01: 7 of the 8 forget rows stand there before" in out
    error = refused(capsys, *arguments, "--dry-run", "strict=true")
    assert (
        error.startswith("error: forget01: 8 of the 8 forget rows are among") and "(and 2 more); strict=true" in error
    )


def test_a_dry_run_tells_the_time_by_what_trials_took_before(arguments, tmp_path, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    assert "time: not known before a trial of this sweep has run" in capsys.readouterr().out
    write_trials(tmp_path / "store" / "tofu_tiny-more", 3, (9e9,), name="tofu_tiny-more")
    for number, seconds in ((0, (9e9,)), (1, (100.0, 200.0, 1000.0)), (2, ())):  # the newest that has trials counts
        write_trials(tmp_path / "store" / f"any name {number}", number, seconds)
    more = ("resources.gpus_per_worker=1", "resources.max_workers=8")
    assert main([*arguments, *more, "--dry-run"]) == 0
    assert (
        "time: a trial of 1970-01-01 00:00 UTC took 3.3 min (median of 3); 24 such trials on 4 slots take about "
        "20 min and 2.67 GPU-hours, baselines and starts aside"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(("gpu_seconds", "hours"), [(900.0, "6"), (None, "8"), (0.0, "8")])
def test_what_a_trial_waited_for_its_first_node_is_not_multiplied(arguments, tmp_path, gpu_seconds, hours, capsys):
    """Started, taken half an hour later, and finished ten minutes after that; what it held counts as it was measured.

    One that ran without GPUs measured none, which says nothing of a plan that has them.
    """
    write_trials(tmp_path / "store" / "slow", 3, (2400.0,), taken=1800.0, gpu_seconds=gpu_seconds)
    assert main([*arguments, "resources.gpus_per_worker=1", "resources.max_workers=8", "--dry-run"]) == 0
    assert (
        "took 10 min (median of 1); 24 such trials on 4 slots take about 60 min "
        f"and {hours} GPU-hours, baselines and starts aside"
    ) in capsys.readouterr().out


def write_trials(folder, begun, seconds, name="tofu_tiny", taken=None, gpu_seconds=None):
    journal = Journal(folder / "journal")
    values = dict(seed=1, config={}, cells=(), objectives=(), lookahead=1, versions={}, command="c")
    journal.append(SweepStarted(name=name, time=begun, **values))
    for number, end in enumerate(seconds):
        key = f"GA/f/t{number}"
        journal.append(TrialStarted(key=key, method="GA", forget_set="f", number=number, params={}, config={}, time=10))
        for wait in () if taken is None else (taken, taken + 300):  # each group of workers tells it; the first counts
            journal.append(TrialTaken(key=key, time=10 + wait))
        journal.append(TrialFinished(key=key, state="COMPLETE", time=10 + end, gpu_seconds=gpu_seconds))
    journal.close()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr=1", "train.lr: unknown key"),
        ("methods=[ME+DG]", "unknown method 'ME+DG'; valid names are GA, GA+GD"),
        ("train.learning_rate=0", "train.learning_rate: input should be greater than 0, but got 0"),
        ("train.learning_rate=-1e-5", "train.learning_rate: input should be greater than 0, but got -1e-05"),
        ("search.space.train.learning_rate.low=1", "search.space.train.learning_rate: low <= high must hold"),
        ("objectives=[happiness]", "objectives: no metric is called 'happiness'"),
        (
            "objectives=[forget_quality]",
            "objectives: forget_quality compares with a retain model, and forget01 has none",
        ),
        ("search.space.train.speed.choices=[1,2]", "search.space: 'train.speed' names no number"),
        ("forget_sets=[forget05]", "scenario.retain_sets has no retain set for forget set 'forget05'"),
        (
            "scenario.source=/no/such/folder",
            "scenario.source: '/no/such/folder' is neither a folder nor a hub data set",
        ),
        ("scenario.refusals=/no/such/file", "scenario.refusals: /no/such/file does not exist"),
        ("model.target=/no/such/model", "model.target: /no/such/model does not exist"),
        ("model.retain_models.forget01=/no/such/model", "model.retain_models.forget01: /no/such/model does not exist"),
        ("evaluation.entailment=/no/such/judge", "evaluation.entailment: /no/such/judge does not exist"),
        ("train.max_length=8", "train.max_length: forget01 row 0: question of"),
        ("evaluation.max_length=8", "evaluation.max_length: evaluation set forget row 0: question of"),
        ("train.batch_size=64", "train.batch_size: on forget01, 5 epochs of 8 forget rows are less than one step"),
        ("evaluation.encoder=/no/such/encoder", "evaluation.encoder: /no/such/encoder does not exist"),
        (
            "train.convention=paper_code train.batch_size=6",
            "train.batch_size: on forget01, paper_code needs batch_size",
        ),
        ("storage=/proc/lethe", "storage: cannot write to /proc/lethe"),
        ("lora.rank=4", "lora.rank: unknown key; valid keys here are r, alpha, dropout, target_modules"),
        ("lora.r=0", "lora.r: input should be greater than 0, but got 0"),
        ("search.space.lora.r.choices=[4,8]", "search.space: 'lora.r' names no number or choice of a trial"),
        (
            "evaluation.downstream_tasks=/no/such evaluation.downstream=[x]",
            "evaluation.downstream_tasks: /no/such is",
        ),
        ("search.sampler=grid", "search.space: search.sampler=grid needs choices, but train.learning_rate has a range"),
        (
            "search.space.train.epochs.choices=[1,1]",
            "search.space.train.epochs: 1 stands there twice; name each",
        ),
    ],
)
def test_bad_settings(arguments, override, words, capsys):
    error = refused(capsys, *arguments, *override.split())
    assert error.startswith("error: ")
    assert words in error


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("forget01", "", "forget01.json is empty"),
        ("forget01", None, "forget01.json does not exist"),
        ("retain99", "{not json}\n", "retain99.json:1 is not JSON"),
        (
            "forget01",
            json.dumps(ROW) + "\n" + json.dumps({"question": "Q?"}) + "\n",
            "forget01.json:2: answer must be a non-empty string, but is None",
        ),
        (
            "forget01",
            json.dumps({"answer": "A."}) + "\n",
            "forget01.json:1: question must be a non-empty string, but is None",
        ),
        ("forget01_perturbed", json.dumps(ROW) + "\n", "forget01_perturbed.json:1 has no perturbed_answer"),
    ],
)
def test_bad_files(arguments, data, name, text, words, capsys):
    path = data / f"{name}.json"
    path.unlink() if text is None else path.write_text(text)
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "row 1 of forget01 has no task_id, which scenario continual needs"),
        (("scenario.tasks=[2,9]",), "scenario.tasks: forget01 has no task '9'; its tasks are 1, 2"),
        (("scenario.num_tasks=3",), "scenario.num_tasks=3, but forget01 has 2 tasks; lower scenario.num_tasks"),
        (("model.retain_models={forget01: x}",), "model.retain_models: scenario continual is measured against none"),
        (("train.batch_size=64",), "train.batch_size: on forget01 task 1, 5 epochs of 4 forget rows are less than one"),
        (("scenario.retain_sets={forget01: nothing}",), "nothing.json does not exist"),
    ],
)
def test_bad_chains(arguments, data, more, words, capsys):
    if more:
        for name in ("forget01", "forget01_perturbed"):
            rows = [json.loads(line) for line in (data / f"{name}.json").read_text().splitlines()]
            tagged = [{**row, "task_id": str(1 + number // 4)} for number, row in enumerate(rows)]
            (data / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in tagged))
    chain = ["continual_tiny", *arguments[1:], "forget_sets=[forget01]", "scenario.num_tasks=null"]
    assert words in refused(capsys, *chain, *more)


def test_real_people_whose_files_are_not_there(arguments, data, capsys):
    people = ["real_world_paper", *(one for one in arguments[1:] if "retain_sets" not in one)]
    assert f"{data / 'forget_perturbed.json'} does not exist" in refused(capsys, *people)
    folders.write_real_world(data / "people")
    people.append(f"scenario.source={data / 'people'}")
    row = json.dumps({"question": "Who?", "answer": "Ada.", "perturbed_answer": ["Bo."], "paraphrased_answer": "A."})
    (data / "people" / "neighbor_perturbed.json").write_text(row + "\n")
    assert "neighbor_perturbed.json:1 has no golden_answer" in refused(capsys, *people)


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ("model.safetensors", "has no weights (*.safetensors); save the model with safetensors"),
        ("tokenizer.json", "has no tokenizer (tokenizer.json)"),
        ("config.json", "has no config.json"),
    ],
)
def test_model_folder_that_lacks_a_part(arguments, models, tmp_path, removed, words, capsys):
    broken = shutil.copytree(models / "target", tmp_path / "broken")
    (broken / removed).unlink()
    error = refused(capsys, *arguments, f"model.target={broken}")
    assert f"model.target: {broken} {words}" in error


def test_refusals_that_are_no_text(arguments, tmp_path, capsys):
    path = tmp_path / "refusals.txt"
    path.write_bytes(b"\xff\xfe\x00 no")
    assert f"scenario.refusals: {path} cannot be read as text" in refused(
        capsys, *arguments, f"scenario.refusals={path}"
    )


def test_unknown_sweep_lists_the_shipped(capsys):
    shipped = ", ".join(shipped_sweeps())
    assert f"no sweep 'nosuch': it is neither a file nor one of the shipped sweeps {shipped}\n" in refused(
        capsys, "nosuch"
    )


def test_a_sweep_without_its_required_settings_names_them(capsys):
    assert "model.target: missing; set model.target=VALUE" in refused(capsys, "tofu_tiny")


def test_resume_of_a_folder_without_a_journal(tmp_path, capsys):
    for more in ((), ("--dry-run",)):
        assert f"no journal in {tmp_path}/journal" in refused(capsys, "--resume", str(tmp_path), *more)


def test_a_dry_run_of_a_sweep_to_be_resumed_or_started_there(arguments, tmp_path, capsys):
    assert main([*arguments, "--dry-run", "--resume", str(tmp_path / "store" / "new")]) == 0
    assert "dry run: nothing was started" in capsys.readouterr().out
    assert not (tmp_path / "store" / "new").exists()
    error = refused(capsys, "--dry-run", "--resume", "s3://user:secret@bucket/x")
    assert error.startswith("error: storage: a URI may hold no password")


@pytest.mark.parametrize("words", [["one", "two"], ["--resume", "d", "--cluster", "c.yaml"], ["--nosuch"]])
def test_bad_usage_is_exit_code_two(words, capsys):
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_shows_examples_and_exit_codes_at_once():
    code = "import sys; from orchestrator.sweep import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tiny.ROOT)
    assert "--dry-run tofu_tiny" in done.stdout and "exit codes" in done.stdout and "quickstart" in done.stdout
    assert "'ray'" not in done.stdout and "'torch'" not in done.stdout
