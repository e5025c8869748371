"""The command that teaches a small model the rows of a scenario."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.finetune import CARD, FinetuneConfig, main
from orchestrator.load_config import build_config
from orchestrator.scenario_config import AuthorsScenario
from tests.ray import folders

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "train={learning_rate: 1.0e-3, epochs: 2, batch_size: 8, micro_batch_size: 8, max_length: 64}",
    "tiny={vocab_size: 300, hidden_size: 16, intermediate_size: 32, num_layers: 1, num_heads: 2}",
)


def test_a_small_model_is_taught_real_people_but_those_to_forget(tmp_path):
    source = folders.write_real_world(tmp_path / "people")
    command = [
        *(sys.executable, "-m", "orchestrator.finetune", str(tmp_path / "model")),
        *("scenario.name=real_world", f"scenario.source={source}", "without=forget"),
        *TINY,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "model" / CARD).read_text())
    assert (card["rows"], card["steps"]) == (16, 4)  # of 24 rows; 2 epochs of 2 batches
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("setting", "code", "words"),
    [
        ("base=/no/such/model", 2, "base: /no/such/model does not exist; name a model folder or a hub name"),
        ("base=EMPTY", 2, "base: EMPTY has no config.json; name a folder that save_pretrained wrote"),
        ("base=someone/model", 2, "base: cannot load the tokenizer of someone/model: "),
        ("train.batch_size=100000", 1, "lower train.batch_size or raise train.epochs"),
    ],
)
def test_what_cannot_be_taught_is_one_line(setting, code, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source, empty = folders.write_real_world(tmp_path / "people"), tmp_path / "empty"
    empty.mkdir()
    scenario = ["scenario.name=real_world", f"scenario.source={source}"]
    assert main([str(tmp_path / "model"), *scenario, *TINY, setting.replace("EMPTY", str(empty))]) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert words.replace("EMPTY", str(empty)) in said and not (tmp_path / "model").exists()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    source = folders.write_tofu(tmp_path / "tofu")
    settings = ["scenario.name=continual", f"scenario.source={source}", "without=forget07"]
    assert main([str(tmp_path / "model"), *settings]) == 2
    assert capsys.readouterr().err == (
        f"error: data file {source}/forget07.json does not exist; correct scenario.source or the name of the set\n"
    )
    assert main([str(tmp_path / "model"), "scenario.name=continual", "without=forget99"]) == 2
    assert capsys.readouterr().err.startswith("error: without: forget_set must be forget01 to forget50, but got")
    assert main([str(source), "scenario.name=authors"]) == 2
    assert capsys.readouterr().err == f"error: OUT: {source} exists; name a new folder\n"
    assert not (tmp_path / "model").exists()


def test_settings_of_a_tiny_model_hold_where_others_are_set():
    kept = build_config(FinetuneConfig, None, ["scenario.name=authors", "train.epochs=2"]).train
    assert (kept.epochs, kept.learning_rate, kept.batch_size, kept.adam_beta2) == (2, 4e-3, 16, 0.95)
    assert FinetuneConfig(scenario=AuthorsScenario()).train.learning_rate == 4e-3
    based = build_config(FinetuneConfig, None, ["scenario.name=authors", "base=some/model", "train.epochs=2"]).train
    assert (based.epochs, based.learning_rate, based.batch_size) == (2, 1e-5, 32)
