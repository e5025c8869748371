"""`python -m orchestrator.export`: plain models that answer as their trials did, honest cards, bad input."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.analysis.model_card import Findings, code, model_card
from orchestrator.analysis.words import score
from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig, baseline_config, trial_config
from orchestrator.export import find_trial, main
from orchestrator.storage import Storage
from orchestrator.tracking.journal import (
    CellRecord,
    CheckpointDeleted,
    Journal,
    ObjectiveRecord,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from orchestrator.trial_config import LoraConfig
from orchestrator.worker.engine import join_process_group, leave_process_group
from orchestrator.worker.evaluation import read_scores
from orchestrator.worker.job import TrialJob
from orchestrator.worker.model import save_model
from orchestrator.worker.parts import WorkerParts
from orchestrator.worker.trial import run_trial
from tests.ray.folders import write_tofu
from tests.ray.tiny import make_judge
from tests.worker.toy import CPU, toy_model, toy_tokenizer

ROOT = Path(__file__).resolve().parents[1]
OBJECTIVES = tuple(
    ObjectiveRecord(metric=name, direction="maximize", worst=0.0) for name in ("model_utility", "forget_efficacy")
)
FULL, LORA, GONE, BROKEN, RUNNING = (
    "GA+GD/forget01/t000",
    "NPO+KL/forget01/t000",
    "GA+GD/forget01/t001",
    "GA+GD/forget01/t002",
    "GA+GD/forget01/t003",
)
HOSTILE = "<script>alert(1)</script> | `a` ``b`` \\| **b** [x](http://evil.example) &amp; $$1$$\n\n---\n# y: *z\u202e"


def sweep_config(place, **more):
    return SweepConfig.model_validate(
        {
            "name": "forgetful",
            "scenario": {"name": "tofu", "source": str(place / "tofu"), "task_id": "1"},
            "model": {"target": str(place / "target"), "retain_models": {"forget01": str(place / "retain")}},
            "methods": ["GA+GD", "NPO+KL"],
            "forget_sets": ["forget01"],
            "train": {"learning_rate": 5e-3, "epochs": 3, "batch_size": 4, "max_length": 64, "warmup_steps": 0},
            "evaluation": {"max_length": 64, "encoder": EMBEDDED, "entailment": str(place / "judge")},
        }
        | more
    )


def header(sweep, **changes):
    cells = tuple(CellRecord(name=f"{m.name}/forget01", method=m.name, forget_set="forget01", num_trials=4)
                  for m in sweep.methods)  # fmt: skip
    values = {"versions": {"torch": "2.13.0"}, "command": "python -m orchestrator.sweep"} | changes
    return SweepStarted(name=sweep.name, seed=sweep.seed, config=sweep.model_dump(mode="json"), cells=cells,
                        objectives=OBJECTIVES, lookahead=1, **values)  # fmt: skip


def run(folder, key, config, params=None):
    """A trial or baseline as a sweep runs it: the records that the journal gets."""
    records = []
    method, forget_set, *number = key.split("/")
    job = TrialJob(key=key, config=config, place=str(folder), objectives=OBJECTIVES, keep_weights=True)
    started = TrialStarted(key=key, method=method, forget_set=forget_set, number=0 if number else None,
                           params=params or {}, config=config.model_dump(mode="json"))  # fmt: skip
    result = run_trial(job, WorkerParts(CPU), records.append)
    assert result.state == TrialState.COMPLETE, result.error
    return [started, *records, result]


def write_confirmed(place):
    """A sweep of one trial that held questions out, and the trial's confirmation: three runs, the last diverged."""
    sweep, folder = sweep_config(place, confirm={"seeds": 3, "held_out": 0.55}), place / "confirmed" / "sweep"
    records = [header(sweep), *run(folder, FULL, trial_config(sweep, sweep.methods[0], "forget01", {}))]
    start, complete = records[1], records[-1]
    for seed, objectives in ((1, (0.2, 0.6)), (2, (0.4, 0.6)), (3, None)):
        key, state = f"confirm/{FULL}/s{seed}", TrialState.COMPLETE if objectives else TrialState.DIVERGED
        ending = {"key": key, "checkpoint": None, "objectives": objectives, "state": state}
        records += [start.model_copy(update={"key": key, "number": seed, "confirms": FULL})]
        records += [complete.model_copy(update=ending)]
    write_journal(folder, records)


def write_journal(folder, records):
    journal = Journal(folder / "journal")
    for record in records:
        journal.append(record)
    journal.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, data and a sweep: a trial of all weights, one of adapters, and some that are no model."""
    place = tmp_path_factory.mktemp("export")
    write_tofu(place / "tofu")
    for seed, name in enumerate(("target", "retain")):
        save_model(toy_model(seed), toy_tokenizer(), place / name)
    make_judge(place / "judge")
    sweep, folder = sweep_config(place), place / "sweep"
    full, lora = (trial_config(sweep, entry, "forget01", {}) for entry in sweep.methods)
    lora = lora.model_copy(update={"lora": LoraConfig(target_modules=("q_proj", "v_proj", "up_proj"))})
    records = [header(sweep)]
    join_process_group()
    try:
        for kind, model in (("retain_model", "retain"), ("before", "target")):
            records += run(folder, f"{kind}/forget01", baseline_config(sweep, "forget01", str(place / model)))
        records += run(folder, FULL, full, {"train.learning_rate": 5e-3})
        records += run(folder, LORA, lora)
        write_confirmed(place)
    finally:
        leave_process_group()
    start = next(record for record in records if isinstance(record, TrialStarted) and record.key == FULL)
    complete = next(record for record in records if isinstance(record, TrialFinished) and record.key == FULL)
    records += [start.model_copy(update={"key": key, "number": n}) for n, key in ((1, GONE), (2, BROKEN))]
    records += [complete.model_copy(update={"key": GONE}), CheckpointDeleted(key=GONE)]
    records += [TrialFinished(key=BROKEN, state=TrialState.FAILED, error="out of memory\nand more")]
    records += [header(sweep, versions={"torch": "9.9.9"}, resumed=True)]
    records += [start.model_copy(update={"key": RUNNING, "number": 3})]
    write_journal(folder, records)
    return place


def exported(place, key, dest, capsys):
    """The folder, and what was printed."""
    assert main([f"{place / 'sweep'}/trials/{key}", str(dest)]) == 0
    return dest, capsys.readouterr().out


def refused(capsys, exit_code, *argv):
    assert main([str(word) for word in argv]) == exit_code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def greedy_answers(folder, questions):
    """What transformers alone makes of the folder."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in questions:
        tokens = tokenizer(f"[INST] {question} [/INST]", return_tensors="pt")
        said = model.generate(**tokens, do_sample=False, max_length=64, pad_token_id=tokenizer.eos_token_id)
        answers.append(tokenizer.decode(said[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


@pytest.mark.parametrize("key", [FULL, LORA])
def test_an_export_is_a_plain_folder_that_answers_as_its_trial_did(key, place, tmp_path, capsys):
    folder, out = exported(place, key, tmp_path / "new" / "forgot", capsys)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["forgot"]
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert not [name for name in files if name.startswith(("adapter", ".")) or name.endswith((".bin", ".pt"))]
    scores = read_scores(place / "sweep" / "trials" / key / "examples.jsonl")
    rows = [row for part in scores.values() for row in part]
    assert greedy_answers(folder, [row.question for row in rows]) == [row.generation for row in rows]
    before = read_scores(place / "sweep" / "trials" / "before" / "forget01" / "examples.jsonl")
    assert [row.generation for row in scores["forget"]] != [row.generation for row in before["forget"]]
    (_, found) = find_trial(f"{place / 'sweep'}/trials/{key}")
    examples = found.trial.finished.examples
    assert len(examples) == 20 and {one.output for one in examples} <= {row.generation for row in rows}
    assert f"wrote {folder}: {key} of {place / 'sweep'}" in out


def test_all_weights_are_copied_byte_for_byte(place, tmp_path, capsys):
    folder, out = exported(place, FULL, tmp_path / "forgot", capsys)
    source = place / "sweep" / "trials" / FULL / "model"
    for path in source.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in folder.iterdir()} - {path.name for path in source.iterdir()} == {"README.md"}
    assert "these are the files, in `float32`, of the model that was scored" in out


def test_an_empty_folder_is_filled(place, tmp_path, capsys):
    (tmp_path / "forgot").mkdir()
    assert (exported(place, FULL, tmp_path / "forgot", capsys)[0] / "README.md").is_file()


def test_rounding_of_a_merge_is_told(place, tmp_path, capsys):
    moved = shutil.copytree(place / "sweep", tmp_path / "sweep")
    save_model(toy_model().to(torch.bfloat16), toy_tokenizer(), tmp_path / "coarse")
    adapters = moved / "trials" / LORA / "model" / "adapter_config.json"
    adapters.write_text(adapters.read_text().replace(str(place / "target"), str(tmp_path / "coarse")))
    folder, out = exported(tmp_path, LORA, tmp_path / "forgot", capsys)
    (share,) = re.findall(r"rounding to bfloat16 changes the merged layers by ([\d.]+)% of what the adapters add", out)
    assert 0.1 < float(share) < 100
    assert AutoModelForCausalLM.from_pretrained(folder).dtype is torch.bfloat16
    assert f"{share}% of what the adapters add" in (folder / "README.md").read_text()
    assert "The scores are those of the adapters beside its weights" in out


def test_the_card_says_what_was_forgotten_how_and_with_what_scores(place, tmp_path, capsys):
    folder, _ = exported(place, FULL, tmp_path / "forgot", capsys)
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model is None and card.data.datasets is None  # folders, which the hub does not know
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert "machine-unlearning" in card.data.tags
    (_, found) = find_trial(f"{place / 'sweep'}/trials/{FULL}")
    metrics = found.trial.finished.metrics
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {name: metrics[name] for name in ("model_utility", "forget_efficacy")}
    for expected in (
        "`GA+GD` made this model forget `forget01`", f"trial `{FULL}`", "scenario: `tofu`", "source: a folder `tofu`",
        "forget set: `forget01`: 8 rows\n", "start: a folder `target`", "6 optimizer steps, seed 42, on CPUs",
        "`masked`",
        "| `train.learning_rate` | `0.005` | searched |", "| `method.retain_weight` | `1.0` |  |", "`torch 2.13.0`",
        "all-MiniLM-L6-v2", "come from 32 questions and one seed. They have no error bars.\n",
        "Only questions that chose nothing could tell by how much.", "8 of `forget`",
        "one of 2 complete trials of `GA+GD` on `forget01`, and of 3 of all methods", "no guarantee against extraction",
        "prompt = '[INST] QUESTION [/INST]'",
    ):  # fmt: skip
        assert expected in card.text, expected
    assert "9.9.9" not in card.text  # of a later sitting
    before, retain = (found.log.baseline(kind, "forget01").finished.metrics for kind in ("before", "retain_model"))
    for name, better in (("model_utility", "higher"), ("forget/rouge", "lower"), ("forget/token_entropy", "higher")):
        (row,) = [line for line in card.text.splitlines() if line.startswith(f"| `{name}`")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == better
        assert [float(cell) for cell in cells[2:]] == [
            pytest.approx(scores[name], abs=6e-4) for scores in (before, metrics, retain)
        ]
    rows = [line for line in card.text.splitlines() if line.startswith("| `") and line.count("|") == 6]
    assert len(rows) == len(metrics) and "searched for" in rows[0]


def test_the_card_holds_no_text_of_the_data_and_no_path(place, tmp_path, capsys):
    folder, _ = exported(place, LORA, tmp_path / "forgot", capsys)
    text = (folder / "README.md").read_text(encoding="utf-8")
    scores = read_scores(place / "sweep" / "trials" / LORA / "examples.jsonl")
    rows = [row for part in scores.values() for row in part]
    assert [row for row in rows if row.question in text or row.answer in text or row.generation in text] == []
    assert str(place) not in text and str(tmp_path) not in text
    assert "| `lora.r` | `8` |" in text


def test_rows_that_cannot_be_read_again_are_not_counted(place, tmp_path, capsys):
    moved = shutil.copytree(place / "sweep", tmp_path / "sweep")
    forgotten = place / "tofu" / "forget01_perturbed.json"
    hidden = forgotten.rename(tmp_path / "hidden")
    try:
        first, out = exported(tmp_path, FULL, tmp_path / "first", capsys)
        assert "note: README.md does not count the forget rows" in out
        forgotten.write_text("".join(reversed(hidden.read_text().splitlines(keepends=True)[:8])))  # others than asked
        (moved / "trials" / FULL / "examples.jsonl").unlink()
        second, _ = exported(tmp_path, FULL, tmp_path / "second", capsys)
    finally:
        hidden.rename(forgotten)
    for folder in (first, second):
        assert "forget set: `forget01`: not counted" in (folder / "README.md").read_text()
    assert "Questions: not counted." in (second / "README.md").read_text()


def test_a_card_says_what_confirmation_found_and_those_runs_are_no_models(place, tmp_path, capsys):
    forgot, out = exported(place / "confirmed", FULL, tmp_path / "forgot", capsys)
    text = (forgot / "README.md").read_text()
    assert "forget set: `forget01`: 8 rows\n" in text and "note: " not in out
    (_, found) = find_trial(f"{place}/confirmed/sweep/trials/{FULL}")
    utility, efficacy = found.trial.finished.objectives
    for expected in (
        "one seed. They have no error bars; below are those of other seeds.", "(complete: 2 of 3 runs)",
        f"`model_utility` 0.300 ± 0.141 (here {score(utility)}), `forget_efficacy` 0.600 ± 0.000 (here "
        f"{score(efficacy)}), mean ± standard deviation over 2 seeds.",
    ):  # fmt: skip
        assert expected in text, expected
    assert "Only questions that chose nothing" not in text
    message = refused(capsys, 2, place / "confirmed" / "sweep" / "trials" / "confirm" / FULL / "s1", tmp_path / "again")
    assert f"confirms {FULL}, and the weights of such runs are never kept; name SWEEP/trials/{FULL}" in message


@pytest.mark.parametrize("key", [FULL, LORA])
def test_a_trial_in_a_store_is_exported(key, place, store_uri, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LETHE_COPIES", str(tmp_path / "copies"))
    base, _, query = store_uri.partition("?")
    sweep = f"{base}/forgetful" + (f"?{query}" if query else "")
    moved = shutil.copytree(place / "sweep", tmp_path / "sweep")
    store = Storage(moved, sweep)
    for name in ("journal", *(f"trials/{one}" for one in (FULL, LORA))):
        store.publish(name)
    trial = sweep.replace("/forgetful", f"/forgetful/trials/{key}")
    assert main([trial, str(tmp_path / "forgot")]) == 0
    scores = read_scores(place / "sweep" / "trials" / key / "examples.jsonl")["forget"]
    assert greedy_answers(tmp_path / "forgot", [row.question for row in scores]) == [row.generation for row in scores]
    assert "come from 32 questions" in (tmp_path / "forgot" / "README.md").read_text()
    assert not list((tmp_path / "copies").rglob("*.safetensors"))  # what was brought is gone again
    store.remove(f"trials/{key}/model")
    capsys.readouterr()
    message = refused(capsys, 2, trial, tmp_path / "again")
    assert "is not whole" in message and not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (
            "sweep/trials/GA+GD/forget01/t00",
            f"has no trial 'GA+GD/forget01/t00'; nearest that have their weights: {FULL}",
        ),
        ("sweep/trials/x", f"has no trial 'x'; those that have their weights: {FULL}, {LORA}"),
        (f"sweep/trials/{FULL}/model", f"nearest that have their weights: {FULL}"),
        ("sweep", f"names a sweep, but none of its trials; those that have their weights: {FULL}"),
        (f"nowhere/trials/{FULL}", "no journal in "),
        ("target", "write SWEEP/trials/METHOD/FORGET_SET/NUMBER"),
        ("sweep/trials/before/forget01", "before/forget01 is a baseline"),
        (f"sweep/trials/{BROKEN}", f"{BROKEN} is FAILED, not COMPLETE: out of memory; those that have"),
        (f"sweep/trials/{RUNNING}", "has not ended"),
        (f"sweep/trials/{GONE}", f"{GONE} has no weights any more: checkpoint.policy=pareto did not keep them"),
    ],
)
def test_a_trial_that_is_no_model_is_refused(trial, words, place, tmp_path, capsys):
    message = refused(capsys, 2, place / trial, tmp_path / "forgot")
    assert message.startswith("error: TRIAL: ") and words in message
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_holds_something_is_left_alone(place, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    trial = place / "sweep" / "trials" / FULL
    for dest, words in (
        ("file", "file exists; name a new folder"), ("folder", "folder exists and is not empty"),
        ("file/below", "cannot be written (Not a directory)"),
    ):  # fmt: skip
        assert words in refused(capsys, 2, trial, tmp_path / dest)
    assert "DEST: s3://bucket/x is a URI" in refused(capsys, 2, trial, "s3://bucket/x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "file", "folder"]
    assert (tmp_path / "folder" / "file").read_text() == "mine"


def test_a_password_in_a_uri_is_refused_and_not_repeated(tmp_path, capsys):
    message = refused(capsys, 2, f"s3://key:hunter2@bucket/sweep/trials/{FULL}", tmp_path / "forgot")
    assert "TRIAL: a URI may hold no password" in message and "hunter2" not in message


@pytest.mark.parametrize(
    ("damage", "exit_code", "words"),
    [
        ("base moved", 2, "where no model is; move it there or correct the path"),
        ("base torn", 1, "which cannot be loaded: "),
        ("adapters torn", 2, "is not whole"),
        ("adapters gone", 2, "is not whole: there are no *.safetensors"),
    ],
)
def test_what_cannot_be_merged_leaves_nothing(damage, exit_code, words, place, tmp_path, capsys):
    moved = shutil.copytree(place / "sweep", tmp_path / "sweep") / "trials" / LORA / "model"
    base = shutil.copytree(place / "target", tmp_path / "base")
    config = moved / "adapter_config.json"
    config.write_text(config.read_text().replace(str(place / "target"), str(base)))
    what, how = damage.split()
    file = {"base": base, "adapters": moved}[what] / (
        "model.safetensors" if what == "base" else "adapter_model.safetensors"
    )
    if how == "moved":
        base.rename(tmp_path / "elsewhere")
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    message = refused(capsys, exit_code, tmp_path / "sweep" / "trials" / LORA, tmp_path / "out" / "forgot")
    assert words in message
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


class Shown(HTMLParser):
    """Tags and text of what a Markdown page becomes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


@pytest.mark.parametrize("line", ["# {}", "- a: {}, b", "| a | b |\n|---|---|\n| {} | c |", "{}"])
@pytest.mark.parametrize("value", [HOSTILE, "`", "|", "\\", "``x", "a\\|b", "<!--", "</code>", "GA+GD/forget10/t003"])
def test_a_value_is_shown_as_it_is_wherever_it_stands(line, value):
    shown = Shown(line.format(code(value)))
    assert shown.tags.count("code") == 1 and not {"script", "a", "strong", "em", "img"} & set(shown.tags)
    assert "".join(value.replace("\n", "\\n").replace("\u202e", "\\u202e").split()) in "".join(shown.text.split())
    assert shown.tags.count("td") == (2 if line.startswith("|") else 0)


def test_hostile_names_and_values_break_neither_card_nor_metadata(place):
    _, found = find_trial(f"{place / 'sweep'}/trials/{FULL}")
    findings = Findings("copied", "[INST] QUESTION [/INST]", True, {"forget": 8}, (8,))
    plain = Shown(model_card("forgot", found, findings).text)
    trial, finished = found.trial, found.trial.finished
    config = found.config.model_copy(
        update={
            "forget_set": HOSTILE,
            "scenario": found.config.scenario.model_copy(update={"source": f"/home/anna/{HOSTILE}"}),
            "model": found.config.model.model_copy(update={"target": HOSTILE, "attention": HOSTILE}),
        }
    )
    judges = {HOSTILE: HOSTILE, "entailment": f"/home/anna/{HOSTILE}"}
    metrics = {f"downstream/{HOSTILE}": 0.5} | finished.metrics
    hostile = replace(
        found,
        header=found.header.model_copy(update={"name": HOSTILE, "versions": {HOSTILE: HOSTILE}}),
        config=config,
        trial=replace(
            trial,
            started=trial.started.model_copy(update={"method": HOSTILE, "key": HOSTILE, "forget_set": HOSTILE}),
            finished=finished.model_copy(update={"judges": judges, "metrics": metrics}),
        ),
    )
    findings = Findings("copied", f"````\n{HOSTILE}", False, {HOSTILE: 8}, None)
    text = str(model_card(HOSTILE, hostile, findings))
    card = ModelCard(text)
    shown = Shown(card.text)
    assert set(shown.tags) == set(plain.tags)
    assert [shown.tags.count(tag) for tag in ("h1", "h2", "table", "pre")] == [1, 5, 2, 1]
    assert shown.tags.count("td") == plain.tags.count("td") + 5  # one more metric
    assert shown.text.count("alert(1)") > 12 and "\u202e" not in text
    assert "anna" not in text
    assert (
        card.data.model_name == HOSTILE.replace("\n", "\\n").replace("\u202e", "\\u202e")
        and card.data.library_name == "transformers"
    )
    assert card.data.base_model is None


def test_the_hub_is_told_the_names_that_are_its_own(place):
    _, found = find_trial(f"{place / 'sweep'}/trials/{FULL}")
    hub = replace(
        found,
        config=found.config.model_copy(
            update={
                "scenario": found.config.scenario.model_copy(update={"source": "locuslab/TOFU"}),
                "model": found.config.model.model_copy(update={"target": "meta-llama/Llama-2-7b-chat-hf"}),
            }
        ),
    )
    card = model_card("forgot", hub, Findings("copied", "QUESTION", True, {}, (8, 8)))
    assert card.data.base_model == "meta-llama/Llama-2-7b-chat-hf" and card.data.datasets == ["locuslab/TOFU"]
    assert {result.dataset_type for result in card.data.eval_results} == {"locuslab/TOFU"}
    assert "`locuslab/TOFU` on the hub; the sweep pins no revision of it" in card.text
    assert "16 rows in 2 tasks, one after another" in card.text


def test_the_example_of_the_card_runs(place, tmp_path, capsys):
    folder, _ = exported(place, FULL, tmp_path / "forgot", capsys)
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    row = read_scores(place / "sweep" / "trials" / FULL / "examples.jsonl")["forget"][0]
    program = program.replace("QUESTION", row.question)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"[INST] {row.question} [/INST]{row.generation}" in done.stdout


def test_the_door_answers_bad_input_without_torch(place, tmp_path):
    program = (
        "import sys; from orchestrator.export import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, str(place / "sweep"), str(tmp_path / "forgot")]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: TRIAL: ")
