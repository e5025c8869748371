"""Bad input, and the one line that is said of it: bad_input.yaml holds the table."""

from pathlib import Path

import pytest
import yaml

from orchestrator.load_config import ConfigError, load_config
from orchestrator.scenarios.base import DataError
from orchestrator.scenarios.rows import read_rows
from orchestrator.sweep import main

TABLE = yaml.safe_load((Path(__file__).parent / "bad_input.yaml").read_text(encoding="utf-8"))
SWEEP = """
name: small
scenario: {name: authors}
model: {target: embedded, retain_models: embedded}
methods: [GA+GD, NPO+GD, {name: ME+GD, forget_weight: 0.1}]
forget_sets: [forget05, forget10]
search:
  space:
    train:
      learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}
    method:
      beta: {low: 0.1, high: 1.0}
train: {batch_size: 8, micro_batch_size: 4}
"""


def cases(table, key):
    return pytest.mark.parametrize(
        (key, "error"), [(case[key], case["error"]) for case in TABLE[table]], ids=[str(c[key]) for c in TABLE[table]]
    )


@pytest.fixture
def sweep_file(tmp_path):
    return tmp_path / "sweep.yaml"


def refused(path, text, *overrides):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    return str(caught.value).replace(str(path), "{path}")


def test_there_are_many():
    assert sum(len(table) for table in TABLE.values()) >= 100


@cases("settings", "set")
def test_settings(set, error, sweep_file):  # noqa: A002
    assert refused(sweep_file, SWEEP, set) == error


@cases("scenarios", "scenario")
def test_scenarios(scenario, error, sweep_file):
    text = SWEEP.replace("{name: authors}", scenario)
    if "tofu" in scenario:
        text = text.replace("{target: embedded, retain_models: embedded}", "{target: /models/target}")
    assert refused(sweep_file, text) == error


@cases("files", "text")
def test_files(text, error, sweep_file):
    assert refused(sweep_file, text) == error


@cases("rows", "bytes")
def test_rows(bytes, error, tmp_path):  # noqa: A002
    path = tmp_path / "forget01.json"
    path.write_bytes(bytes.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value).replace(str(path), "{path}") == error


def test_the_command_says_the_same_line_and_nothing_else(sweep_file, capsys):
    sweep_file.write_text(SWEEP)
    assert main([str(sweep_file), "train.epochs=0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: train.epochs: input should be greater than 0, but got 0\n"
