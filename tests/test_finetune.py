"""The command that teaches a small model the rows of a scenario."""

import json
import subprocess
import sys
from pathlib import Path

from orchestrator.finetune import CARD, main
from tests.ray import folders

ROOT = Path(__file__).resolve().parents[1]


def test_a_small_model_is_taught_real_people_but_those_to_forget(tmp_path):
    source = folders.write_real_world(tmp_path / "people")
    command = [
        *(sys.executable, "-m", "orchestrator.finetune", str(tmp_path / "model")),
        *("scenario.name=real_world", f"scenario.source={source}", "without=forget"),
        "train={learning_rate: 1.0e-3, epochs: 2, batch_size: 8, micro_batch_size: 8, max_length: 64}",
        "tiny={vocab_size: 300, hidden_size: 16, intermediate_size: 32, num_layers: 1, num_heads: 2}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "model" / CARD).read_text())
    assert (card["rows"], card["steps"]) == (16, 4)  # of 24 rows; 2 epochs of 2 batches
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    source = folders.write_tofu(tmp_path / "tofu")
    settings = ["scenario.name=continual", f"scenario.source={source}", "without=forget07"]
    assert main([str(tmp_path / "model"), *settings]) == 2
    assert capsys.readouterr().err == (
        f"error: data file {source}/forget07.json does not exist; correct scenario.source or the name of the set\n"
    )
    assert main([str(tmp_path / "model"), "scenario.name=continual", "without=forget99"]) == 2
    assert capsys.readouterr().err.startswith("error: without: forget_set must be forget01 to forget50, but got")
    assert not (tmp_path / "model").exists()
