"""`python -m orchestrator.evaluate`: OpenUnlearning's files, numbers of a baseline, an MLflow run, bad input."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metrics.suites import ExampleScore
from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig, baseline_config
from orchestrator.evaluate import main
from orchestrator.evaluation_config import EvaluateConfig
from orchestrator.evaluation_files import Scored, tofu_eval, tofu_summary
from orchestrator.trial_config import LoraConfig
from orchestrator.worker.engine import join_process_group, leave_process_group
from orchestrator.worker.evaluation import read_scores
from orchestrator.worker.job import TrialJob
from orchestrator.worker.model import add_adapters, save_model
from orchestrator.worker.parts import WorkerParts
from orchestrator.worker.trial import run_trial
from tests.ray.folders import write_real_world, write_tofu
from tests.ray.tiny import make_judge
from tests.worker.toy import CPU, toy_model, toy_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
FILES = ["TOFU_SUMMARY.json", "TOFU_EVAL.json", "examples.jsonl", "evaluation.json"]
CHAIN = ("scenario.name=continual", "scenario.num_tasks=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data of two scenarios, a target model, a retain model and a judge."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_tofu(folder / "tofu")
    write_real_world(folder / "people")
    for seed, name in enumerate(("target", "retain")):
        save_model(toy_model(seed), toy_tokenizer(), folder / name)
    make_judge(folder / "judge")
    return folder


def settings(place, *more, scenario=("scenario.name=tofu", "scenario.task_id=1")):
    """The command line after CHECKPOINT: four sets of eight short questions."""
    source = "people" if "scenario.name=real_world" in scenario else "tofu"
    return [
        *scenario,
        f"scenario.source={place / source}",
        *([] if source == "people" else ["forget_set=forget01"]),
        "evaluation.max_length=64",
        "evaluation.downstream=[]",
        f"evaluation.encoder={EMBEDDED}",
        f"evaluation.entailment={place / 'judge'}",
        *more,
    ]


def load(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def done(place):
    """A whole evaluation with retain model and MLflow run; the folder of its files and of the store."""
    out = place / "done"
    uri = f"tracking.uri=sqlite:///{place / 'store' / 'mlflow.db'}"
    (place / "store").mkdir()
    assert main([str(place / "target"), *settings(place, f"retain_model={place / 'retain'}", f"out={out}", uri)]) == 0
    return out


@pytest.fixture(scope="module")
def chain(place):
    assert main([str(place / "target"), *settings(place, f"out={place / 'chain'}", scenario=CHAIN)]) == 0
    return place / "chain"


def baseline(place, name, scenario, retain_scores=None):
    """What a sweep would record of the model in folder `name`: metrics, and where its scores are."""
    sweep = SweepConfig.model_validate(
        {
            "name": "baseline",
            "scenario": {**scenario, "source": str(place / "tofu")},
            "model": {"target": str(place / "target")},
            "methods": ["GA"],
            "forget_sets": ["forget01"],
            "evaluation": {"max_length": 64, "encoder": EMBEDDED, "entailment": str(place / "judge")},
        }
    )
    job = TrialJob(
        key=f"{scenario['name']}/{name}",
        config=baseline_config(sweep, "forget01", str(place / name)),
        place=str(place / "sweep"),
        objectives=(),
        keep_weights=False,
        retain_scores=retain_scores,
    )
    join_process_group()
    try:
        result = run_trial(job, WorkerParts(CPU), lambda record: None)
    finally:
        leave_process_group()
    return result, place / "sweep" / result.scores_path


@pytest.mark.parametrize("folder", ["done", "chain"])
def test_both_files_have_the_form_that_scripts_expect(folder, request):
    out = request.getfixturevalue(folder)
    entries, summary = load(out, "TOFU_EVAL.json"), load(out, "TOFU_SUMMARY.json")
    assert summary == {name: entry["agg_value"] for name, entry in entries.items()}
    assert all(isinstance(value, float) and math.isfinite(value) for value in summary.values())
    assert {name for name in entries if name.startswith("forget_") and "value_by_index" in entries[name]} == {
        "forget_Q_A_Prob", "forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio"
    }  # fmt: skip
    for entry in entries.values():
        assert set(entry) <= {"agg_value", "value_by_index"}
        rows = entry.get("value_by_index", {})
        assert list(rows) == [str(index) for index in range(len(rows))]


MEANS = {
    "Q_A_Prob": "prob", "Q_A_PARA_Prob": "prob", "Q_A_PERT_Prob": "prob", "Q_A_Prob_normalised": "prob",
    "Q_A_ROUGE": "rougeL_recall",
}  # fmt: skip


@pytest.mark.parametrize("folder", ["done", "chain"])
def test_aggregates_follow_from_the_rows(folder, request):
    """As scripts recompute them, of every name that has rows."""
    found = 0
    for name, entry in load(request.getfixturevalue(folder), "TOFU_EVAL.json").items():
        rows = list(entry.get("value_by_index", {}).values())
        if not rows:
            continue
        field = MEANS.get(name.partition("_")[2], "score")
        values = torch.tensor([row[field] for row in rows], dtype=torch.float64).reshape(len(rows), -1).mean(1)
        if name == "forget_truth_ratio":
            values = torch.minimum(values, 1 / (values + 1e-10))
        elif name.endswith("Truth_Ratio"):
            values = (1 - values).clamp(min=0)
        assert entry["agg_value"] == pytest.approx(values.mean().item(), rel=1e-12), name
        found += 1
    assert found == 6 * 4 + 20  # Lethe's metrics of four sets; OpenUnlearning's names


def test_openunlearnings_numbers_are_lethes_where_nothing_is_improbable(done):
    summary = load(done, "TOFU_SUMMARY.json")
    pairs = {
        "forget_Q_A_Prob": "forget/probability", "retain_Q_A_Prob": "retain/probability",
        "ra_Q_A_Prob_normalised": "authors/probability", "wf_Q_A_Prob_normalised": "facts/probability",
        "forget_Q_A_ROUGE": "forget/rouge", "retain_Q_A_ROUGE": "retain/rouge", "wf_Q_A_ROUGE": "facts/rouge",
        "retain_Truth_Ratio": "retain/truth_ratio",
        "forget_quality": "lethe/forget_quality",
    }  # fmt: skip
    for theirs, ours in pairs.items():
        assert summary[theirs] == pytest.approx(summary[ours], rel=1e-3), theirs
    assert summary["forget_truth_ratio"] == pytest.approx(1 - summary["forget/truth_ratio"], rel=1e-3)


def test_metrics_are_those_of_a_sweeps_baselines(done, place):
    tofu = {"name": "tofu", "task_id": "1"}
    retain, retain_scores = baseline(place, "retain", tofu)
    before, scores = baseline(place, "target", tofu, str(retain_scores))
    header = load(done, "evaluation.json")
    assert header["metrics"] == before.metrics
    assert header["retain_model"]["metrics"] == retain.metrics
    assert (done / "examples.jsonl").read_bytes() == scores.read_bytes()
    assert (done / "retain_examples.jsonl").read_bytes() == retain_scores.read_bytes()


def test_a_chain_is_scored_as_its_baseline_is_and_asks_all_its_tasks(chain, place):
    result, _ = baseline(place, "target", {"name": "continual", "num_tasks": 2})
    assert load(chain, "evaluation.json")["metrics"] == result.metrics
    entries = load(chain, "TOFU_EVAL.json")
    asked = [row["input"] for row in entries["forget_Q_A_ROUGE"]["value_by_index"].values()]
    assert [question[-3:] for question in asked] == [" 1?"] * 8 + [" 2?"] * 8
    assert [row["task"] for row in entries["forget/rouge"]["value_by_index"].values()] == [1] * 8 + [2] * 8
    assert entries["forget/rouge"]["agg_value"] == result.metrics["forget/rouge"]


def test_the_header_says_what_was_measured(done, place):
    import hashlib

    header = load(done, "evaluation.json")
    assert header["checkpoint"] == header["config"]["model"]["target"] == str(place / "target")
    assert (header["scenario"], header["forget_set"], header["template"]) == ("tofu", "forget01", "llama2-chat")
    assert header["rows"] == {"forget": 8, "retain": 8, "authors": 8, "facts": 8}
    assert header["judges"]["entailment"] == str(place / "judge")
    assert {"python", "torch", "transformers"} <= header["versions"].keys()
    for path, digest in {
        **{done / name: digest for name, digest in header["sha256"]["results"].items()},
        **header["sha256"]["weights"],
    }.items():
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
    assert len(header["sha256"]["results"]) == 4 and len(header["sha256"]["weights"]) == 2


def test_the_mlflow_run_has_the_numbers(done, place):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place / 'store' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lethe evaluations")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "target on forget01")
    theirs = {name.partition("/")[2]: v for name, v in run.data.metrics.items() if name.startswith("open_unlearning/")}
    ours = {name: v for name, v in run.data.metrics.items() if not name.startswith("open_unlearning/")}
    summary = load(done, "TOFU_SUMMARY.json")
    assert ours == load(done, "evaluation.json")["metrics"]
    assert {name for name in theirs if summary[name] != theirs[name]} == set()
    assert len(theirs) + len(ours) == len(summary)
    assert {
        metric.step for name in ("model_utility",) for metric in client.get_metric_history(run.info.run_id, name)
    } == {0}
    assert run.data.params["checkpoint"] == str(place / "target") and run.data.params["template"] == "llama2-chat"
    assert run.data.tags["lethe.judge.entailment"] == str(place / "judge")
    logged = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert logged == {path.name for path in done.iterdir()}
    assert (place / "store" / "mlflow-artifacts").is_dir()


def test_two_processes_find_what_one_finds(done, place):
    out = place / "two"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "orchestrator.evaluate", str(place / "target")),
        *settings(place, f"retain_model={place / 'retain'}", f"out={out}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("TOFU_SUMMARY.json") == 1 and "32 questions on 2 processes" in ran.stdout
    assert load(out, "evaluation.json")["num_processes"] == 2
    assert load(out, "TOFU_SUMMARY.json") == pytest.approx(load(done, "TOFU_SUMMARY.json"), rel=1e-5)
    one, two = (read_scores(folder / "examples.jsonl") for folder in (done, out))
    assert {name: [s.generation for s in rows] for name, rows in one.items()} == {
        name: [s.generation for s in rows] for name, rows in two.items()
    }
    assert not (out / ".unfinished").exists()


def test_scores_of_a_retain_model_serve_again_and_results_are_replaced_only_on_demand(done, place, capsys):
    out = place / "again"
    shutil.copytree(done, out)
    command = [
        str(place / "target"),
        *settings(place, f"retain_scores={done / 'retain_examples.jsonl'}", f"out={out}"),
    ]
    assert main(command) == 2
    assert f"out: {out} has results (TOFU_SUMMARY.json, " in capsys.readouterr().err
    (out / "TOFU_SUMMARY.json").write_text("{}")
    assert main([*command, "overwrite=true"]) == 0
    assert load(out, "TOFU_SUMMARY.json") == load(done, "TOFU_SUMMARY.json")
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_neighbours_are_retained_people_and_have_no_utility_of_tofu(place, capsys):
    """The default folder and the only forget set of the scenario."""
    model = place / "people_model"
    shutil.copytree(place / "target", model)
    assert main([str(model), *settings(place, scenario=("scenario.name=real_world",))]) == 0
    summary = load(model / "evals", "TOFU_SUMMARY.json")
    assert summary["retain_Q_A_ROUGE"] == summary["neighbor/rouge"]
    assert "model_utility" not in summary and "lethe/model_utility" in summary
    printed = capsys.readouterr().out
    assert re.search(r"^neighbor +8 ", printed, re.MULTILINE) and str(model / "evals" / "evaluation.json") in printed
    assert all(len(line) <= 80 for line in printed.splitlines() if not line.startswith(("/", "scoring")))


def test_adapters_are_merged(place):
    adapted = add_adapters(toy_model(), LoraConfig(r=2))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.05)
    adapted.base_model.model.config._name_or_path = str(place / "target")
    adapted.peft_config["default"].base_model_name_or_path = str(place / "target")
    save_model(adapted, toy_tokenizer(), place / "adapters")
    save_model(adapted.merge_and_unload(), toy_tokenizer(), place / "merged")
    found = []
    for name in ("adapters", "merged"):
        assert main([str(place / name), *settings(place, f"out={place / name}-evals")]) == 0
        found.append(load(place / f"{name}-evals", "TOFU_SUMMARY.json"))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def refused(capsys, code, *arguments):
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: "), captured.err
    return captured.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["forget_set=forget02"], "forget_set: scenario tofu knows forget01, forget05, forget10, but got 'forget02'"),
        (["forget_set=null"], "forget_set: missing; set forget_set=NAME (scenario tofu knows forget01, forget05, "),
        (["evaluation.max_lenght=64"], "evaluation.max_lenght: unknown key; did you mean evaluation.max_length?"),
        (["model.target=x"], "model.target belongs to a sweep; name the model as CHECKPOINT"),
        (["evaluation.max_length=8"], "evaluation.max_length: evaluation set forget row 0: "),
        (["evaluation.entailment=/no/judge"], "evaluation.entailment: /no/judge does not exist"),
        (["evaluation.encoder=/no/encoder"], "evaluation.encoder: /no/encoder does not exist"),
        (
            ["evaluation.downstream=[gsm8k]", "evaluation.downstream_tasks=/no/tasks"],
            "evaluation.downstream_tasks: /no/",
        ),
        (["model.template=chat"], "model.template: chat needs a chat template"),
        (["scenario.source=/no/data"], "scenario.source: '/no/data' is neither a folder nor a hub data set"),
        (["retain_model=/no/model"], "retain_model: /no/model does not exist"),
        (["retain_scores=/no/examples.jsonl"], "retain_scores: /no/examples.jsonl cannot be read"),
        (["retain_model=a/b", "retain_scores=c"], "retain_model and retain_scores are two sources of one comparison"),
        (["scenario.name=continual", "~scenario.task_id", "retain_model=a/b"], "chains of tasks are not compared"),
        (["out=OUT/file/below"], "out: cannot write to "),
    ],
)
def test_bad_settings_are_one_line_and_exit_code_2(more, words, place, tmp_path, capsys):
    (tmp_path / "file").touch()
    given = [text.replace("OUT", str(tmp_path)) for text in more if not text.startswith("~")]
    left_out = {text[1:] for text in more if text.startswith("~")}
    kept = [text for text in settings(place, f"out={tmp_path / 'out'}") if text.partition("=")[0] not in left_out]
    message = refused(capsys, 2, str(place / "target"), *kept, *given)
    assert words in message and message.count("\n") == 1
    assert not (tmp_path / "out" / "TOFU_EVAL.json").exists()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights (*.safetensors); save the model with safetensors"),
        ("tokenizer.json", "has no tokenizer"),
        (None, "CHECKPOINT: /no/such/model does not exist"),
    ],
)
def test_bad_checkpoints_are_refused(missing, words, place, tmp_path, capsys):
    checkpoint = "/no/such/model"
    if missing:
        checkpoint = str(shutil.copytree(place / "target", tmp_path / "model", ignore=shutil.ignore_patterns(missing)))
    message = refused(capsys, 2, checkpoint, *settings(place, f"out={tmp_path / 'out'}"))
    assert "CHECKPOINT: " in message and words in message


@pytest.mark.parametrize("checkpoint", ["/no/such/model", "./no/such/model", "~/no/such/model"])
def test_a_folder_that_is_not_there_is_said_before_where_results_go(checkpoint, place, capsys):
    message = refused(capsys, 2, checkpoint, *settings(place))
    assert message == f"error: CHECKPOINT: {checkpoint} does not exist; name a model folder or a hub name\n"


def test_a_hub_name_needs_a_folder_for_its_results(place, capsys):
    message = refused(capsys, 2, "someone/model", *settings(place))
    assert message == "error: out: missing, and CHECKPOINT someone/model is no folder; set out=FOLDER\n"


def test_scores_of_other_questions_are_refused(done, place, tmp_path, capsys):
    other = tmp_path / "examples.jsonl"
    lines = (done / "examples.jsonl").read_text().splitlines(keepends=True)
    other.write_text("".join([lines[1], lines[0], *lines[2:]]))
    arguments = [*settings(place, f"out={tmp_path / 'out'}"), f"retain_scores={other}"]
    assert "has 8 forget questions, not the 8 that are asked now" in refused(
        capsys, 2, str(place / "target"), *arguments
    )


def test_a_model_without_finite_predictions_writes_nothing(place, tmp_path, capsys):
    broken = toy_model()
    broken.lm_head.weight.data[:] = math.nan
    save_model(broken, toy_tokenizer(), tmp_path / "broken")
    message = refused(capsys, 1, str(tmp_path / "broken"), *settings(place))
    assert "CHECKPOINT: the model's predictions are not finite; nothing was written" in message
    assert list((tmp_path / "broken" / "evals").iterdir()) == []


def test_files_are_complete_where_mlflow_is_away(place, tmp_path, capsys):
    uri = "http://name:secret@127.0.0.1:9"
    message = refused(
        capsys, 1, str(place / "target"), *settings(place, f"out={tmp_path / 'out'}", f"tracking.uri={uri}")
    )
    assert "MLflow at http://***@127.0.0.1:9" in message and "The files above are complete" in message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    texts = message + "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())
    assert "secret" not in texts


def example(set_name, nll, base, wrong, generation="in oslo now", answer="in oslo"):
    return ExampleScore(
        set_name=set_name, index=0, question="where?", answer=answer, semantic_truth=answer, generation=generation,
        nll_sum=2 * nll, num_tokens=2, base_nll=base, perturbed_nll=tuple(wrong), rouge_l=1.0, token_entropy=1.0,
        cosine_similarity=1.0, entailment="entailment",
    )  # fmt: skip


def test_openunlearnings_definitions_by_hand():
    ln2 = math.log(2)
    scores = {
        "forget": [example("forget", ln2, ln2, [2 * ln2, 4 * ln2]), example("forget", 2 * ln2, 3 * ln2, [ln2])],
        "retain": [example("retain", ln2, ln2, [3 * ln2])],
        "facts": [example("facts", ln2, 9.0, [2 * ln2, 2 * ln2])],
    }
    kinds = {"forget": "forget", "retain": "retain", "facts": "facts"}
    summary = tofu_summary(tofu_eval(Scored(scores, kinds, {"model_utility": 0.5}, [0.25, 4.0])))
    expected = {
        "forget_Q_A_Prob": (1 / 2 + 1 / 4) / 2,
        "forget_Q_A_PARA_Prob": (1 / 2 + 1 / 8) / 2,
        "forget_Q_A_PERT_Prob": ((1 / 4 + 1 / 16) / 2 + 1 / 2) / 2,
        "forget_truth_ratio": 1 / 4,  # t = 1/8 / (1/2) = 1/4 and 1/2 / (1/8) = 4
        "retain_Truth_Ratio": 1 - 1 / 4,
        "wf_Q_A_Prob_normalised": 1 / 2,
        "wf_Truth_Ratio": 1 - 1 / 2,  # against the answer, whatever the paraphrase
        "model_utility": 6 / (2 + 1 + 4 / 3 + 2 + 1 + 2),
        "forget_quality": 1.0,
        "lethe/model_utility": 0.5,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected, rel=1e-8)
    rouge = tofu_eval(Scored(scores, kinds, {}))["retain_Q_A_ROUGE"]["value_by_index"]["0"]
    assert rouge["rougeL_f1"] == pytest.approx(0.8)  # two of three words, both of two
    assert rouge["rouge1_recall"] == 1.0


def test_openunlearnings_numbers_where_answers_have_no_probability():
    """There the two part: p(wrong) / (p(right) + 1e-10) is nothing, while Lethe still compares e^-52 with e^-50."""
    scores = {"forget": [example("forget", 50.0, 50.0, [52.0])]}
    entry = tofu_eval(Scored(scores, {"forget": "forget"}, {"forget/truth_ratio": 1 - math.exp(-2)}))
    assert entry["forget_truth_ratio"]["agg_value"] < 1e-12
    assert entry["forget/truth_ratio"]["value_by_index"]["0"]["score"] == pytest.approx(1 - math.exp(-2))


def test_the_page_names_every_key():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    own = set(EvaluateConfig.model_fields) - {"scenario", "model", "evaluation", "tracking"}
    keys = own | {f"tracking.{name}" for name in EvaluateConfig.model_fields["tracking"].annotation.model_fields}
    assert [key for key in sorted(keys) if f"| `{key}` |" not in text] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs models and data that are not part of the project")
def test_a_model_that_knows_its_rows_by_heart_has_a_high_utility(place, tmp_path):
    source = [f"scenario.source={SHARED / 'data' / 'tofu_small'}", "scenario.retain_sets={forget01: retain90}"]
    kept = [text for text in settings(place, scenario=("scenario.name=tofu",)) if "source" not in text]
    more = ["evaluation.max_length=200", "evaluation.max_rows_per_set=8", f"out={tmp_path}"]
    assert main([str(SHARED / "models" / "tofu_tiny_target"), *kept, *source, *more]) == 0
    summary = load(tmp_path, "TOFU_SUMMARY.json")
    assert summary["model_utility"] > 0.7
    assert summary["forget_Q_A_ROUGE"] > 0.9 and summary["forget_Q_A_Prob"] > 0.9
