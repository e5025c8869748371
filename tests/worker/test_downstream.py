"""Downstream tasks by the real harness: local tasks of a few documents, a tiny Llama, one process and two."""

import json
import logging
import math
import random
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from tqdm import tqdm

from orchestrator.scenarios.base import DataError
from orchestrator.trial_config import DOWNSTREAM, EvaluationConfig
from orchestrator.worker.downstream import check_downstream, downstream_metrics, load_downstream, task_metric
from orchestrator.worker.engine import join_process_group, leave_process_group, start_process_group
from tests.worker.toy import FORGET, PLACES, RETAIN, toy_model, toy_tokenizer

LOCAL = ("toy_choice", "toy_logprob", "toy_answer", "toy_group")
NUM_TOKENS = 5
CHOICES = [f"In {place}, it seems." if i % 2 else f"In {place}." for i, place in enumerate(PLACES)]
DOCUMENTS = [{"question": row.question, "choices": CHOICES, "label": i % 6} for i, row in enumerate(FORGET + RETAIN)]
TASKS = {
    "toy_choice": {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "label"},
    "toy_logprob": {
        "output_type": "loglikelihood",
        "doc_to_target": " {{choices[label]}}",
        "process_results": "!function scores.logprob",
        "metric_list": [{"metric": "logprob", "aggregation": "mean", "higher_is_better": True}],
    },
    "toy_answer": {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": NUM_TOKENS, "do_sample": False},
        "filter_list": [
            {"name": "never", "filter": [{"function": "regex", "regex_pattern": "(?!)"}, {"function": "take_first"}]},
            {"name": "plain", "filter": [{"function": "take_first"}]},
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}
SCORED = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]


def greedy(model, prompt: str) -> str:
    """The next tokens, one forward each, in torch alone."""
    ids = torch.tensor([toy_tokenizer()(prompt)["input_ids"]])
    start = ids.shape[1]
    for _ in range(NUM_TOKENS):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        if ids[0, -1] == toy_tokenizer().eos_token_id:
            break
    return toy_tokenizer().decode(ids[0, start:], skip_special_tokens=True).split("\n")[0]


def write_task(folder: Path, name: str, documents: list[dict], **settings) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metric_list": SCORED,
        **settings,
    }
    text = yaml.safe_dump(definition, sort_keys=False).replace("'!function scores.logprob'", "!function scores.logprob")
    (folder / f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with the local tasks. Every third answer of toy_answer is what the model writes."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "scores.py").write_text("def logprob(doc, results):\n    return {'logprob': results[0][0]}\n")
    model = toy_model()
    answered = [
        {**document, "answer": greedy(model, document["question"]) if i % 3 == 0 else "wrong"}
        for i, document in enumerate(DOCUMENTS)
    ]
    for name, settings in TASKS.items():
        write_task(folder, name, answered if name == "toy_answer" else DOCUMENTS, **settings)
    write_task(folder, "toy_first", DOCUMENTS[:4], **TASKS["toy_choice"])
    write_task(folder, "toy_rest", DOCUMENTS[4:], **TASKS["toy_choice"])
    write_task(folder, "toy_fewshot", DOCUMENTS, **TASKS["toy_logprob"], num_fewshot=2, fewshot_split="test")
    write_task(folder, "toy_hub", [], **TASKS["toy_choice"] | {"dataset_path": "owner/unreachable"})
    too_long = TASKS["toy_answer"] | {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 1000}}
    write_task(folder, "toy_too_long", answered, **too_long)
    perplexity = [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}]
    settings = {"output_type": "loglikelihood", "doc_to_target": "{{choices[label]}}", "metric_list": perplexity}
    write_task(folder, "toy_perplexity", DOCUMENTS, **settings)
    mcc = [{"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True}]
    write_task(folder, "toy_mcc", DOCUMENTS, **TASKS["toy_choice"] | {"metric_list": mcc})
    aggregate = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "toy_group", "task": ["toy_first", "toy_rest"], "aggregate_metric_list": aggregate}
    (folder / "toy_group.yaml").write_text(yaml.safe_dump(group))
    loose = {"group": "toy_loose", "task": ["toy_first", "toy_rest"]}
    (folder / "toy_loose.yaml").write_text(yaml.safe_dump(loose))
    return folder


@pytest.fixture(scope="module", autouse=True)
def process_group():
    join_process_group()
    yield
    leave_process_group()


def evaluation(folder: Path, **settings) -> EvaluationConfig:
    return EvaluationConfig(downstream_tasks=str(folder), batch_size=4, **settings)


def logprobs(model, document: dict) -> list[float]:
    """Log-probability of each choice after the question and a space, one forward each, in torch alone."""
    found = []
    for choice in document["choices"]:
        num_context = len(toy_tokenizer()(document["question"])["input_ids"])
        ids = torch.tensor(toy_tokenizer()(f"{document['question']} {choice}")["input_ids"])
        with torch.no_grad():
            table = model(ids[None]).logits[0].log_softmax(-1)
        found.append(sum(float(table[i - 1, ids[i]]) for i in range(num_context, len(ids))))
    return found


def test_values_are_those_of_a_direct_computation(tasks):
    model = toy_model().eval()
    found = downstream_metrics(model, toy_tokenizer(), LOCAL, evaluation(tasks), seed=0)
    table = [logprobs(model, document) for document in DOCUMENTS]
    best = [int(np.argmax(row)) for row in table]
    best_per_letter = [int(np.argmax([x / len(c) for x, c in zip(row, CHOICES, strict=True)])) for row in table]
    labels = [document["label"] for document in DOCUMENTS]
    assert best != best_per_letter
    assert found == {
        "downstream/toy_choice": pytest.approx(np.mean(np.equal(best_per_letter, labels))),
        "downstream/toy_logprob": pytest.approx(np.mean([row[i] for row, i in zip(table, labels, strict=True)])),
        "downstream/toy_answer": 0.0,
        "downstream/toy_group": pytest.approx(np.mean(np.equal(best, labels))),
    }


def test_generated_answers_are_greedy_whatever_the_model_folder_says(tasks, tmp_path):
    """The task's first filter lets nothing through; without it every third answer is right."""
    definition = yaml.safe_load((tasks / "toy_answer.yaml").read_text())
    definition["filter_list"] = definition["filter_list"][1:]
    (tmp_path / "toy_answer.yaml").write_text(yaml.safe_dump(definition))
    expected = {"downstream/toy_answer": pytest.approx(8 / 22)}
    model = toy_model()
    assert downstream_metrics(model, toy_tokenizer(), ["toy_answer"], evaluation(tmp_path), seed=0) == expected
    own = model.generation_config
    own.repetition_penalty, own.do_sample, own.max_new_tokens, own.temperature = 9.0, True, 1, 5.0
    assert downstream_metrics(model, toy_tokenizer(), ["toy_answer"], evaluation(tmp_path), seed=0) == expected
    assert model.generation_config is own


@pytest.mark.parametrize("task", ["toy_choice", "toy_answer"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_every_row_begins_with_bos_once(tasks, task, add_bos):
    """Also where the tokenizer by itself puts none."""
    tokenizer = deepcopy(toy_tokenizer())
    tokenizer.add_bos_token = add_bos
    model, rows = toy_model(), []

    def record(module, args, kwargs):
        rows.extend(args[0] if args else kwargs["input_ids"])

    model.register_forward_pre_hook(record, with_kwargs=True)
    downstream_metrics(model, tokenizer, [task], evaluation(tasks, downstream_limit=3), seed=0)
    prompts = [row for row in rows if len(row) > 1]  # a single token continues a generated answer
    assert len(prompts) >= 3
    assert {int((row == tokenizer.bos_token_id).sum()) for row in prompts} == {1}
    unpadded = [row[int((row != tokenizer.pad_token_id).nonzero()[0]) :] for row in prompts]
    assert {int(row[0]) for row in unpadded} == {tokenizer.bos_token_id}


def test_limit_takes_the_first_documents(tasks):
    model = toy_model().eval()
    limited = evaluation(tasks, downstream_limit=2)
    found = downstream_metrics(model, toy_tokenizer(), ["toy_logprob"], limited, seed=0)
    expected = np.mean([logprobs(model, document)[document["label"]] for document in DOCUMENTS[:2]])
    assert found == {"downstream/toy_logprob": pytest.approx(expected)}


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), *torch.rand(3).tolist()]


def next_draws() -> list[float]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return expected


def copied(tasks: Path, folder: Path, *files: str) -> EvaluationConfig:
    for name in files:
        (folder / name).write_text((tasks / name).read_text().replace(str(tasks), str(folder)))
    return evaluation(folder)


@pytest.mark.parametrize("task", ["toy_choice", "toy_answer", "toy_too_long"])
def test_everything_is_left_as_it_was(tasks, task):
    """toy_too_long asks for more tokens than the model has positions, and raises."""
    model, tokenizer = toy_model().train(), deepcopy(toy_tokenizer())
    model.model.norm.eval()
    tokenizer.pad_token = None
    modes = [module.training for module in model.modules()]
    weights = [parameter.data_ptr() for parameter in model.parameters()]
    generation, config = model.generation_config, model.config.to_dict()
    before = tokenizer.padding_side, tokenizer.pad_token, tokenizer.add_bos_token, tokenizer("Ada")["input_ids"]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    draw = vars(tqdm)["__init__"]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    expected = next_draws()
    if task == "toy_too_long":
        with pytest.raises(AssertionError, match="max tokens to generate"):
            downstream_metrics(model, tokenizer, [task], evaluation(tasks), seed=7)
    else:
        downstream_metrics(model, tokenizer, [task], evaluation(tasks), seed=7)
    assert draws() == expected
    assert [module.training for module in model.modules()] == modes
    assert [parameter.data_ptr() for parameter in model.parameters()] == weights
    assert model.generation_config is generation
    assert model.config.to_dict() == config
    after = tokenizer.padding_side, tokenizer.pad_token, tokenizer.add_bos_token, tokenizer("Ada")["input_ids"]
    assert after == before
    assert ({logger.level for logger in loggers}, vars(tqdm)["__init__"]) == ({logging.WARNING}, draw)


def test_nothing_is_written_to_the_terminal(tasks, capfd, caplog):
    downstream_metrics(toy_model(), toy_tokenizer(), [*LOCAL, "toy_fewshot"], evaluation(tasks), seed=0)
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records] == []


def test_tasks_are_read_once_in_a_process(tasks, tmp_path):
    """With or without a model; random generators are left as they were."""
    config = copied(tasks, tmp_path, "toy_choice.yaml", "toy_choice.jsonl")
    expected = next_draws()
    load_downstream(["toy_choice"], config)
    assert draws() == expected
    for name in ("toy_choice.yaml", "toy_choice.jsonl"):
        (tmp_path / name).unlink()
    call = (toy_model(), toy_tokenizer(), ["toy_choice"])
    assert downstream_metrics(*call, config, seed=0) == downstream_metrics(*call, evaluation(tasks), seed=0)


def test_no_tasks_give_no_metrics():
    assert downstream_metrics(None, None, (), EvaluationConfig(), seed=0) == {}
    load_downstream((), EvaluationConfig(downstream_tasks="nowhere"))


def _rank(rank: int, store: str, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    start_process_group(rank, 2, f"file://{store}")
    call = (toy_model(), toy_tokenizer())
    names = (*LOCAL, "toy_fewshot")
    found = {
        limit: downstream_metrics(*call, names, evaluation(folder, downstream_limit=limit), seed=0)
        for limit in (None, 1)
    }
    with pytest.raises(DataError) as raised:
        load_downstream(["toy_hub"], evaluation(folder))
    torch.save((found, str(raised.value)), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tasks, tmp_path, monkeypatch):
    """Few-shot examples too, and with fewer documents than processes. Offline, a data set of the hub is one error."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mp.spawn(_rank, args=(str(tmp_path / "store"), str(tasks), str(tmp_path)), nprocs=2, join=True)
    (first, message), (second, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first == second
    call = (toy_model(), toy_tokenizer(), (*LOCAL, "toy_fewshot"))
    for limit in (None, 1):
        alone = downstream_metrics(*call, evaluation(tasks, downstream_limit=limit), seed=0)
        assert first[limit] == pytest.approx(alone, rel=1e-5)
    for words in ("'toy_hub'", "owner/unreachable", "evaluation.downstream_tasks", "evaluation.downstream=[]"):
        assert words in message


def test_a_metric_that_is_better_when_lower_is_refused(tasks):
    with pytest.raises(ValueError, match=r"'toy_perplexity' has no score that is better when higher.*perplexity,none"):
        downstream_metrics(toy_model(), toy_tokenizer(), ["toy_perplexity"], evaluation(tasks), seed=0)


HARNESS = {
    "arc_challenge": {"acc,none": 0.1, "acc_stderr,none": 0.01, "acc_norm,none": 0.2, "acc_norm_stderr,none": 0.02},
    "mmlu": {"acc,none": 0.3, "acc_stderr,none": 0.03, "sample_count": {"acc,none": 14042}},
    "truthfulqa_mc1": {"acc,none": 0.4, "acc_stderr,none": 0.04},
    "triviaqa": {"exact_match,remove_whitespace": 0.5, "exact_match_stderr,remove_whitespace": 0.05},
    "gsm8k": {
        "exact_match,strict-match": 0.6,
        "exact_match_stderr,strict-match": 0.06,
        "exact_match,flexible-extract": 0.7,
        "exact_match_stderr,flexible-extract": 0.07,
    },
}


@pytest.mark.parametrize(
    ("task", "value"),
    [("arc_challenge", 0.2), ("mmlu", 0.3), ("truthfulqa_mc1", 0.4), ("triviaqa", 0.5), ("gsm8k", 0.7)],
)
def test_default_tasks_are_scored_as_in_the_paper(task, value):
    head = {name: {"name": name, "alias": name, "sample_len": 100} for name in HARNESS}
    results = {
        "results": {name: head[name] | scores for name, scores in HARNESS.items()},
        "higher_is_better": {name: {"acc": True, "acc_norm": True, "exact_match": True} for name in HARNESS},
    }
    assert task_metric(results, task) == value


@pytest.mark.parametrize(
    ("scores", "value"),
    [
        ({"bleu,none": 1.0, "exact_match,a": 2.0, "exact_match,b": 3.0, "acc,none": 4.0, "acc_norm,none": 5.0}, 5.0),
        ({"bleu,none": 1.0, "exact_match,a": 2.0, "exact_match,b": 3.0, "acc,none": 4.0}, 4.0),
        ({"bleu,none": 1.0, "exact_match,a": 2.0, "exact_match,b": 3.0}, 2.0),
        ({"loss,none": 0.0, "bleu_stderr,none": 9.0, "bleu,none": 1.0, "chrf,none": 2.0}, 1.0),
        ({"bleu,none": "N/A", "chrf,none": np.float64(2.0)}, 2.0),
    ],
)
def test_other_tasks_are_scored_by_the_first_preferred_metric(scores, value):
    results = {
        "results": {"other": {"alias": "other", "sample_len": 3, **scores}},
        "higher_is_better": {"other": {"loss": False}},
    }
    found = task_metric(results, "other")
    assert math.isclose(found, value)
    assert type(found) is float


def test_a_task_of_your_own_that_bears_a_known_name_is_scored_by_what_it_has():
    assert task_metric({"results": {"gsm8k": {"acc,none": 0.5}}, "higher_is_better": {}}, "gsm8k") == 0.5


def test_check_names_what_is_wrong(tasks, tmp_path):
    """With a folder the harness's own tasks can still be asked for, by the names of the paper's."""
    config = evaluation(tasks)
    check_downstream(LOCAL, config)
    check_downstream((*LOCAL, *DOWNSTREAM), config)
    with pytest.raises(ValueError, match=r"evaluation\.downstream: unknown task 'toy_chioce'; did you mean toy_choice"):
        check_downstream(["toy_chioce"], config)
    with pytest.raises(ValueError, match=r"unknown task 'gsm8kk'; did you mean gsm8k"):
        check_downstream(["gsm8kk"], EvaluationConfig())
    with pytest.raises(
        ValueError, match="'toy_loose' has no score of its own; name its tasks instead: toy_first, toy_rest"
    ):
        check_downstream(["toy_loose"], config)
    with pytest.raises(ValueError, match=r"'ai2_arc' has no score of its own.*arc_challenge, arc_easy"):
        check_downstream(["ai2_arc"], EvaluationConfig())
    with pytest.raises(ValueError, match=r"evaluation\.downstream_tasks: .*nowhere is no folder"):
        check_downstream(LOCAL, evaluation(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("task", "metric"), [("toy_mcc", "mcc"), ("toy_logprob", "logprob"), ("cola", "mcc"), ("squadv2", "only its code")]
)
def test_only_a_score_between_zero_and_one_is_an_objective(tasks, task, metric):
    """A trial that diverged is given 0.0, which is more than many a log-probability or correlation."""
    config = evaluation(tasks)
    names = [task, "toy_choice", "toy_answer", "toy_group", "gsm8k"]
    check_downstream(names, config, objectives=["model_utility", *(f"downstream/{name}" for name in names[1:])])
    with pytest.raises(ValueError, match=rf"^objectives: downstream/{task} is scored by .*{metric}.*acc_norm, acc"):
        check_downstream(names, config, objectives=["model_utility", f"downstream/{task}"])


@pytest.mark.parametrize("task", ["toy_perplexity", "wikitext"])
def test_a_task_without_a_metric_to_raise_is_refused_before_anything_is_scored(tasks, task):
    """wikitext says nothing of directions: its metrics have their own."""
    with pytest.raises(ValueError, match=rf"^evaluation\.downstream: task '{task}' has no score that.*perplexity"):
        check_downstream(["toy_choice", task], evaluation(tasks))


def test_metrics_of_a_task_that_lists_none_are_those_of_its_kind(tasks, tmp_path):
    definition = yaml.safe_load((tasks / "toy_choice.yaml").read_text()) | {"metric_list": None}
    kinds = ("multiple_choice", "generate_until", "loglikelihood_rolling")
    for kind in kinds:
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump({**definition, "task": kind, "output_type": kind}))
    check_downstream(kinds[:2], evaluation(tmp_path), objectives=[f"downstream/{kind}" for kind in kinds[:2]])
    with pytest.raises(ValueError, match="it gives word_perplexity, byte_perplexity, bits_per_byte"):
        check_downstream(kinds, evaluation(tmp_path))


@pytest.mark.parametrize("content", [None, "{no json"])
def test_files_of_this_machine_are_read_beforehand_and_the_hub_is_not_asked(tasks, tmp_path, content):
    """toy_hub would fail; a file that is not there, or that holds something else, does."""
    check_downstream(["toy_hub"], evaluation(tasks))
    config = copied(tasks, tmp_path, "toy_choice.yaml", "toy_hub.yaml")
    if content is not None:
        (tmp_path / "toy_choice.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"^evaluation\.downstream: task 'toy_choice' cannot be loaded"):
        check_downstream(["toy_hub", "toy_choice"], config)


def test_the_harness_is_not_loaded_where_its_tasks_are_known_by_name():
    program = (
        "import sys\n"
        "from orchestrator.trial_config import DOWNSTREAM, EvaluationConfig\n"
        "from orchestrator.worker.downstream import check_downstream\n"
        "check_downstream((), EvaluationConfig(downstream_tasks='nowhere'))\n"
        "check_downstream(DOWNSTREAM, EvaluationConfig())\n"
        "print('lm_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False"]
