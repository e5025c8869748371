"""The programs of benchmarks/gpu through their real code on a CPU: tiny shapes, a few rows, no times asserted."""

import io
import json
import os
import subprocess
import sys
import textwrap
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.multiprocessing as mp

from benchmarks.gpu import evaluation, record, setting, study_page, tofu_study, training, training_page
from benchmarks.gpu.flops import LLAMA2_7B, Shape, Work, peak_flops, training_flops, work_of
from benchmarks.gpu.isolated import Child, in_turn, serve
from benchmarks.gpu.without_ray import Rounds
from orchestrator.base_config import EMBEDDED
from orchestrator.tracking.journal import CellRecord, SweepStarted, TrialStarted
from orchestrator.tracking.sweep_log import SweepLog, load_sweep
from tests.ray.tiny import make_judge

ROOT = Path(__file__).resolve().parents[1]
PEAK = 1e14


# ---- Operations. ----


def test_the_7b_shape_has_the_parameters_of_llama_2_7b():
    norms = (2 * 32 + 1) * 4096
    assert LLAMA2_7B.parameters + norms == 6_738_415_616


def test_work_of_rows_by_hand():
    assert work_of([(3, 2), (1, 0)]) == Work(tokens=4, places=1 + 2 + 3 + 1, counted=2)


def test_training_flops_by_hand():
    shape = Shape(hidden_size=2, num_layers=3, intermediate_size=5, num_heads=1, vocab_size=7)
    assert shape.layer_parameters == 3 * (4 * 4 + 3 * 10)
    done = Work(tokens=10, places=20, counted=4)
    attention = 12 * 3 * 2 * 20
    assert training_flops(shape, done) == 6 * 138 * 10 + 6 * 14 * 4 + attention
    assert training_flops(shape, done, 11) == (4 * 138 + 6 * 11) * 10 + 4 * 14 * 4 + attention


def test_a_device_has_a_peak_or_it_must_be_stated():
    assert peak_flops("NVIDIA H200", None) == peak_flops("NVIDIA H100 80GB HBM3", None) == 989e12
    assert peak_flops("cpu", 0.5) == 5e11
    with pytest.raises(ValueError, match="--peak-tflops"):
        peak_flops("cpu", None)


# ---- Training. ----


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    setting.prepare(folder, setting.scenario(None, num_authors=10))
    return folder


def in_process(index, plan, out):
    """Measure everything in this process, which is not that of the tests: DeepSpeed leaves things behind."""
    torch.set_num_threads(1)
    with setting.process_group():
        out.write_text(json.dumps([training.measure(what) for what in plan]))


@pytest.fixture(scope="module")
def trained(work):
    """Every mode and method on a model of some thousand weights, in one process."""
    arguments = Namespace(
        shape="tiny",
        target=None,
        modes=["full", "lora", "naive"],
        methods=list(training.METHODS),
        zero=["2"],
        variant=["micro_batch_size=2"],
        warmup=1,
        steps=1,
        naive_steps=1,
        batch_size=4,
    )
    plan = training._plan(arguments, setting.scenario(None, num_authors=10), work)
    for what in plan:
        what["shape"] = asdict(Shape(16, 1, 16, 2, 2500))
    mp.spawn(in_process, args=(plan, work / "training.json"), nprocs=1, join=True)
    results = json.loads((work / "training.json").read_text())
    return [
        {**what, "state": "measured", **one, **training.rates(one, PEAK)}
        for what, one in zip(plan, results, strict=True)
    ]


def test_every_configuration_has_sane_numbers(trained):
    assert len(trained) == 9
    for run in trained:
        assert run["work"]["tokens"] > run["work"]["counted"] > 0, run
        assert run["tokens_per_second"] > 0 and 0 < run["utilisation"] < 1, run
        assert len(run["seconds"]) == run["steps"] == 1
        assert all(loss > 0 for loss in run["losses"])


def by_name(runs, mode, method):
    return next(run for run in runs if (run["mode"], run["method"]) == (mode, method))


def test_the_naive_loop_pads_and_needs_the_same_tokens_a_row(trained):
    for method in training.METHODS:
        ours, naive = (
            [r for r in trained if (r["method"], r["mode"]) == (method, mode)][0] for mode in ("full", "naive")
        )
        assert naive["padding_share"] > 0.5 > ours["padding_share"]
        each = [run["work"]["tokens"] / (run["batch_size"] * run["steps"]) for run in (ours, naive)]
        assert each[1] == pytest.approx(each[0], rel=0.25)


def test_adapters_train_a_small_part_of_the_weights(trained):
    full, lora = ([run["trained_parameters"] for run in trained if run["mode"] == mode] for mode in ("full", "lora"))
    assert max(lora) < min(full) / 4


def test_npo_counts_its_reference_pass_once_for_all_epochs(trained):
    run = by_name(trained, "full", "NPO+GD")
    assert run["reference_rows"] == 8
    assert 0 < run["tokens_per_second_with_reference"] < run["tokens_per_second"]


def test_the_page_compares_with_the_naive_loop_and_names_what_does_not_fit(trained, tmp_path):
    facts = record.circumstances("command") | {
        "shape": "tiny",
        "parameters": 10**9,
        "peak_tflops": 100.0,
        "data": "TOFU",
    }
    kept = record.Record(tmp_path / "speed.json", facts, training_page.page)
    for run in trained:
        kept.add(run)
    lost = {"name": "lost", "mode": "full", "method": "ME+GD", "zero": "0", "variant": "", "peak_gib": 80.25}
    kept.add({**lost, "state": "does not fit", "error": "out of memory"})
    text = (tmp_path / "speed.md").read_text()
    assert "| full | ME+GD | 0 | defaults | does not fit |" in text and "80.2" in text
    found = training_page.comparisons(trained)
    assert [one["times_naive"] is not None for one in found] == [True] * 3 + [False] * 3
    assert all(one["times_naive"] > 0 for one in found[:3])


def test_a_record_is_added_to_and_knows_its_device(tmp_path):
    facts = {"device": "one", "date": "", "machine": "", "command": "", "versions": {}}
    out = tmp_path / "runs.json"
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        record.Record(out, facts, lambda facts: []).add({"name": name, "value": value})
    assert json.loads(out.read_text())["runs"] == [{"name": "b", "value": 2}, {"name": "a", "value": 3}]
    with pytest.raises(ValueError, match="measured on one"):
        record.Record(out, facts | {"device": "two"}, lambda facts: [])


@pytest.mark.parametrize(("text", "stage", "offload"), [("0", 0, ()), ("2+optimizer", 2, (1,)), ("3+all", 3, (1, 2))])
def test_zero_in_words(text, stage, offload):
    config = training.zero_config(text)
    assert (config.stage, config.offload_optimizer, config.offload_parameters) == (stage, 1 in offload, 2 in offload)


def test_an_unknown_zero_is_refused():
    with pytest.raises(ValueError, match="--zero"):
        training.zero_config("4")


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "measured", None),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "does not fit", "20.00 GiB"),
        (KeyError("rows"), "failed", "KeyError"),
    ],
)
def test_a_child_says_what_it_measured_what_did_not_fit_and_what_broke(error, state, words, monkeypatch, capsys):
    def measure(what):
        if error:
            raise error
        return {"twice": 2 * what["number"]}

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"number": 3}'))
    assert serve(measure) == 0
    result = json.loads(capsys.readouterr().out.split("MEASURED ")[1])
    assert result["state"] == state
    assert result["twice"] == 6 if words is None else words in result["error"]


def test_a_child_that_is_killed_did_not_fit_and_one_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    program = """
        import json, os, sys
        what = json.loads(sys.stdin.read())
        if what["killed"]:
            os.kill(os.getpid(), 9)
        print('MEASURED {"state": "measured"}')
    """
    (tmp_path / "lethe_child.py").write_text(textwrap.dedent(program))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert Child("lethe_child").measure({"killed": False}, 60) == {"state": "measured"}
    assert Child("lethe_child").measure({"killed": True}, 60)["state"] == "does not fit"
    assert Child("lethe_child").measure({"killed": False}, 0.0)["state"] == "out of time"
    assert list(in_turn("lethe_child", [{"killed": False}], lambda: None)) == []
    plan, left = [{"killed": False}] * 3, iter([60, 60, None])
    assert [result for _, result in in_turn("lethe_child", plan, lambda: next(left))] == [{"state": "measured"}] * 2


# ---- The commands, each measurement in a process of its own. ----

SHARED = ["--shape", "tiny", "--data", "authors", "--authors", "10"]


def records(command, *arguments, out):
    alone = mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"})  # beside other tests threads wait for each other
    with alone, mock.patch.object(sys, "argv", ["", *SHARED, *arguments, "--out", str(out)]):
        assert command.main() == 0
    facts = json.loads(out.read_text())
    assert facts["device"] and facts["versions"]["torch"] and facts["command"].startswith("python -m")
    assert [run["state"] for run in facts["runs"]] == ["measured"] * len(facts["runs"]), facts["runs"]
    return facts["runs"], out.with_suffix(".md").read_text()


def test_the_command_of_training_writes_its_record(tmp_path):
    few = ["--methods", "ME+GD", "--modes", "full", "--zero", "0", "--batch-size", "4", "--warmup", "1", "--steps", "1"]
    (run,), text = records(training, *few, "--peak-tflops", "1", out=tmp_path / "training.json")
    assert run["tokens_per_second"] > 0 and 0 < run["utilisation"] < 1
    assert "| full | ME+GD | 0 | defaults |" in text and "rows of 10 generated authors" in text


def test_the_command_of_evaluation_has_the_naive_loop_beside_it(tmp_path):
    make_judge(tmp_path / "judge")
    few = ["--entailment", str(tmp_path / "judge"), "--rows", "2", "--batch-size", "8", "--naive-rows", "1"]
    (ours, naive), text = records(evaluation, *few, out=tmp_path / "evaluation.json")
    assert ours["sets"] == naive["rows"] == {"forget": 2, "retain": 2, "facts": 2}
    assert ours["answer_tokens"] > 0 and ours["seconds"] > 0
    assert naive["seconds"] >= 3 * naive["judges_seconds"] > 0
    assert "Rows: forget 2, retain 2, facts 2." in text and "| naive |" in text


# ---- The study. ----


def test_only_whole_rounds_begin():
    cells = tuple(CellRecord(name=f"{m}/f", method=m, forget_set="f", num_trials=9) for m in ("GA", "ME"))
    header = {"name": "s", "seed": 1, "config": {}, "objectives": (), "lookahead": 1, "versions": {}, "command": ""}
    log, now = SweepLog(SweepStarted(cells=cells, **header)), [0.0]
    rounds = Rounds(end=25.0, clock=lambda: now[0])
    begun = []
    while rounds.may_start(log):
        number = len(begun) // 2
        method = ("GA", "ME")[len(begun) % 2]
        begun.append(f"{method}/f/t{number:03d}")
        log.add(TrialStarted(key=begun[-1], method=method, forget_set="f", number=number, params={}, config={}))
        now[0] += 5
    assert len(begun) == 4  # two rounds of 10 s; a third would end at 30 s


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Models of some thousand weights and one round of two methods."""
    storage = tmp_path_factory.mktemp("study")
    make_judge(storage / "judge")
    shared = [str(storage), "--shape", "tiny", "--data", "authors", "--authors", "10", "--forget-sets", "forget20"]
    searched = ["--methods", "NPO+GD", "IDK+AP", "--rows", "2", "--at-a-time", "1", "--encoder", EMBEDDED]
    searched += ["--entailment", str(storage / "judge"), "--keep", str(storage / "kept"), "--minutes", "20"]
    for command in (
        ["teach", *shared, "--epochs", "2", "--min-rouge", "0"],
        ["sweep", *shared, *searched, "--trials", "1"],
    ):
        with mock.patch.object(sys, "argv", ["tofu_study", *command]):
            assert tofu_study.main() == 0
    return storage


def test_the_study_records_every_cell_and_its_baselines(study):
    log = load_sweep(study / "kept")
    assert {key.partition("/")[0] for key in log.trials} == {"retain_model", "before", "NPO+GD", "IDK+AP"}
    assert len(log.searched()) == 2 and log.ended.state == "done"
    assert all(trial.finished.state == "COMPLETE" for trial in log.trials.values())
    assert "forget_quality" in log.trials["NPO+GD/forget20/t000"].finished.metrics
    assert (study / "kept" / "report.html").is_file()


def test_the_study_has_a_page(study, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study_page", str(study / "kept"), str(tmp_path / "study.json")])
    assert study_page.main() == 0
    facts, text = json.loads((tmp_path / "study.json").read_text()), (tmp_path / "study.md").read_text()
    assert len(facts["cells"]) == 2 and all(cell["trials"] == 1 for cell in facts["cells"])
    assert "| forget20 | IDK+AP | 1 |" in text and "| target |" in text


def test_a_study_goes_on_only_with_the_same_settings(study):
    arguments = Namespace(
        storage=study, shape="tiny", data=None, authors=10, forget_sets=["forget10"], methods=["NPO+GD"], trials=1,
        rows=2, batch_size=256, at_a_time=1, encoder=EMBEDDED, entailment="judge",
    )  # fmt: skip
    with pytest.raises(ValueError, match="other settings"):
        tofu_study.open_record(tofu_study.sweep_config(arguments), study / "sweep", 1)


def test_the_study_needs_no_ray():
    program = """
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "ray":
                    raise ModuleNotFoundError(name)
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "ray" else found(name, *more)
        sys.meta_path.insert(0, Missing())
        from benchmarks.gpu.without_ray import search_module
        module = search_module()
        assert module.CellSearch.__mro__[1].__module__ == "benchmarks.gpu.without_ray"
        assert "ray" not in sys.modules
        import benchmarks.gpu.tofu_study, orchestrator.worker.trial
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("fine\n"), done.stderr
