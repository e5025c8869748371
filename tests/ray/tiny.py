"""Models so small that a real sweep takes seconds: what the tests with a cluster train and are judged by."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from orchestrator.scenario_config import AuthorsScenario
from orchestrator.scenarios.load import load_training_rows
from orchestrator.trial_config import TinyModel
from orchestrator.worker.model import save_model
from orchestrator.worker.tiny import tiny_llama, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SHAPE = TinyModel(vocab_size=600, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)


def make_models(folder):
    """A target and a retain model with random weights and an entailment judge with random weights."""
    rows = load_training_rows(AuthorsScenario(num_authors=10), None)
    tokenizer = train_tokenizer(rows, "llama2-chat", SHAPE.vocab_size)
    for index, name in enumerate(("target", "retain")):
        torch.manual_seed(index)
        save_model(tiny_llama(SHAPE, tokenizer, max_positions=256), tokenizer, folder / name)
    make_judge(folder / "judge")
    return folder


def make_judge(judge):
    """An entailment judge with random weights."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    judge.mkdir()
    (judge / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"])
    )
    words = BertTokenizerFast(vocab_file=str(judge / "vocab.txt"))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "contradiction", 1: "entailment", 2: "neutral"},
        label2id={"contradiction": 0, "entailment": 1, "neutral": 2},
    )
    torch.manual_seed(2)
    BertForSequenceClassification(config).save_pretrained(judge)
    words.save_pretrained(judge)


def settings(models, storage, *more):
    """The quickstart cut down: one forget set, few rows, random models."""
    return [
        "quickstart",
        f"storage={storage}",
        "scenario.num_authors=10",
        "forget_sets=[forget10]",
        f"model.target={models / 'target'}",
        f"model.retain_models={{forget10: {models / 'retain'}}}",
        f"evaluation.entailment={models / 'judge'}",
        "evaluation.max_rows_per_set=4",
        "evaluation.max_length=80",
        "train.batch_size=4",
        "train.epochs=2",
        "search.startup_trials=1",
        *more,
    ]


def environment(**more):
    """The environment of a command: nothing of Ray's is inherited, nothing asks a hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **more}


def _alone(more):
    """Another Ray that runs on the machine would be joined."""
    return environment(**{"RAY_ADDRESS": "local", **more})


def run(arguments, **more):
    """Run `python -m orchestrator.sweep` to its end, on a cluster of its own but where RAY_ADDRESS names another."""
    command = [sys.executable, "-m", "orchestrator.sweep", *arguments]
    return subprocess.run(command, cwd=ROOT, env=_alone(more), capture_output=True, text=True, timeout=400, check=False)


def start(arguments, on=(), **more):
    """Run it in the background. Ctrl-C reaches it, even if the tests run where it is ignored.

    `on` is what a command on another machine begins with.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sweep = subprocess.Popen(
        [*on, sys.executable, "-m", "orchestrator.sweep", *arguments],
        cwd=ROOT,
        env=_alone(more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    return sweep


def sweep_folder(storage):
    """The only sweep in a storage folder."""
    (folder,) = [path for path in Path(storage).iterdir() if (path / "journal").is_dir()]
    return folder


def scores(folder, key):
    """Per-example scores of a trial."""
    return [json.loads(line) for line in (folder / "trials" / key / "examples.jsonl").read_text().splitlines()]
