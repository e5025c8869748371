"""Every shipped sweep loads and dry-runs; those of the paper hold its settings (arXiv 2410.08109)."""

import re

import pytest

from orchestrator.config import SweepConfig, cell_space, first_values, num_trials, trial_config
from orchestrator.load_config import SWEEPS, ConfigError, load_config, shipped_sweeps
from orchestrator.sweep import main
from orchestrator.trial_config import DOWNSTREAM, LoraConfig
from tests.ray import folders, tiny

BASELINES = ("GA+GD", "GA+KL", "NPO+GD", "NPO+KL", "DPO+GD", "DPO+KL", "IDK+GD", "IDK+KL")
PAPER = ("tofu_paper", "continual_paper", "real_world_paper")
SEARCHES = {
    "tofu_search": "tofu_paper", "tofu_lora": "tofu_paper", "continual_search": "continual_paper",
    "real_world_search": "real_world_paper",
}  # fmt: skip
NUM_TRIALS = {
    "quickstart": 24, "tofu_tiny": 24, "continual_tiny": 12, "tofu_paper": 30, "continual_paper": 18,
    "real_world_paper": 50, "tofu_search": 600, "tofu_lora": 80, "continual_search": 180, "real_world_search": 200,
}  # fmt: skip


def needed(name, data="/data", target="/models/target"):
    """What a user has to give, and nothing else."""
    source = [f"scenario.source={data}"] if name.startswith(("continual_p", "continual_s", "real_world")) else []
    return [*source, *([f"model.target={target}"] if name == "tofu_tiny" else [])]


def load(name, *overrides):
    return load_config(name, [*needed(name), *overrides])


@pytest.mark.parametrize("name", shipped_sweeps())
def test_loads_and_says_what_it_is(name):
    sweep = load(name)
    assert sweep.name == name
    assert SweepConfig.model_validate_json(sweep.model_dump_json()) == sweep
    comment = [line for line in (SWEEPS / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert len(comment) > 1 or name == "quickstart"
    commands = re.findall(r"orchestrator\.(?:sweep|finetune) (\w+)", "\n".join(comment))
    assert name in commands or name == "quickstart"


@pytest.mark.parametrize("name", shipped_sweeps())
def test_lacks_only_what_its_comment_asks_for(name):
    if not needed(name):
        assert load_config(name).name == name
        return
    with pytest.raises(ConfigError) as error:
        load_config(name)
    key = needed(name)[0].partition("=")[0]
    assert str(error.value) == f"{key}: missing; set {key}=VALUE"
    assert f"{key}=" in (SWEEPS / f"{name}.yaml").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    tiny.make_models(folder)
    folders.write_tofu(folder / "tofu")
    folders.write_real_world(folder / "real_world")
    return folder


@pytest.mark.parametrize("name", shipped_sweeps())
def test_dry_runs_on_local_models_and_data(name, place, capsys):
    arguments = [name, "--dry-run", f"storage={place / 'store'}", "resources.gpus_per_worker=0"]
    if name not in ("quickstart", "continual_tiny"):
        data = place / ("real_world" if name.startswith("real_world") else "tofu")
        arguments += [f"scenario.source={data}", f"model.target={place / 'target'}", "train.batch_size=8"]
    if name == "tofu_tiny":
        arguments.append("scenario.retain_sets={forget01: retain99}")
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code == 0, err
    assert f"= {NUM_TRIALS[name]} trials\n" in out
    assert "dry run: nothing was started" in out
    assert out.count("/t000: ") + out.count("/t001: ") + out.count("/t002: ") == 3  # sampled trials
    assert ("tasks one after another: 1, 2, 3" in out) == (load(name).scenario.name == "continual")
    assert not list((place / "store").iterdir())


def test_dry_run_tells_cells_of_different_budgets_and_a_grid_that_is_cut(place, capsys):
    arguments = ["real_world_paper", "--dry-run", f"storage={place / 'store'}", "resources.gpus_per_worker=0"]
    arguments += [f"scenario.source={place / 'real_world'}", f"model.target={place / 'target'}", "train.batch_size=8"]
    assert main([*arguments, "methods=[GA+GD, {name: ME+GD, space: {}}]"]) == 0
    out = capsys.readouterr().out
    assert "2 methods x 1 forget sets x 1 to 6 trials = 7 trials" in out
    assert "  GA+GD    on forget: 6 trials\n  ME+GD    on forget: 1 trial\n" in out
    assert "ME+GD/forget/t000: as configured, nothing is searched" in out
    assert "GA+GD/forget/t000: train.learning_rate=1e-05, train.epochs=5" in out
    assert "combinations" not in out
    assert main([*arguments, "search.trials_per_cell=4"]) == 0
    out = capsys.readouterr().out
    note = "search.trials_per_cell=4 stops after the first 4 of 6 combinations; set it to 6 for the whole grid"
    assert f"note: GA+GD: {note}\n" in out
    assert "note: ME+GD" not in out


@pytest.mark.parametrize("name", PAPER)
def test_settings_that_all_experiments_of_the_paper_share(name):
    sweep = load(name)
    train = sweep.train
    assert (train.convention, train.learning_rate, train.epochs) == ("paper_code", 1e-5, 5)
    assert (train.batch_size, train.micro_batch_size, sweep.resources.workers_per_trial) == (32, 4, 2)
    assert (train.adam_beta1, train.adam_beta2, train.adam_epsilon, train.weight_decay) == (0.9, 0.999, 1e-8, 0.01)
    assert (train.max_grad_norm, train.warmup_steps, train.forget_labels) == (None, None, None)
    assert (sweep.zero.stage, sweep.lora, sweep.model.dtype) == (3, None, "bfloat16")
    assert (sweep.resources.gpus_per_worker, sweep.evaluation.max_length) == (1, 200)
    assert sweep.evaluation.encoder == "sentence-transformers/paraphrase-MiniLM-L6-v2"
    assert sweep.evaluation.entailment == "sileod/deberta-v3-base-tasksource-nli"
    assert sweep.objectives == ("model_utility", "forget_efficacy")


def weights(sweep):
    """Every weight and beta as a trial gets them, by method."""
    trials = {entry.name: trial_config(sweep, entry, sweep.forget_sets[0], {}) for entry in sweep.methods}
    assert all(trial.method.retain_weight == 1 for trial in trials.values())
    betas = {part.beta for t in trials.values() for part in (t.method.forget, t.method.retain) if hasattr(part, "beta")}
    assert betas == {0.1}
    return {name: trial.method.forget_weight for name, trial in trials.items()}


def test_tofu_paper():
    sweep = load("tofu_paper")
    assert (sweep.model.target, sweep.model.template) == ("locuslab/tofu_ft_llama2-7b", "llama2-chat")
    assert sweep.scenario.source == "locuslab/TOFU"
    assert sweep.scenario.retain_sets == {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
    assert sweep.forget_sets == ("forget01", "forget05", "forget10")
    assert weights(sweep) == {name: 0.1 if name == "ME+GD" else 1 for name in (*BASELINES, "ME+GD", "IDK+AP")}
    assert (sweep.train.max_length, sweep.evaluation.max_rows_per_set) == (500, 300)
    assert [num_trials(sweep, entry) for entry in sweep.methods] == [1] * 10


def test_continual_paper():
    sweep = load("continual_paper")
    assert (sweep.model.target, sweep.model.template) == ("locuslab/tofu_ft_llama2-7b", "llama2-chat")
    assert sweep.scenario.retain_sets == {"forget01": "retain90", "forget05": "retain50", "forget10": "retain10"}
    assert (sweep.scenario.reference, sweep.scenario.tasks, sweep.scenario.num_tasks) == ("previous", None, None)
    assert sweep.forget_sets == ("forget01", "forget05", "forget10")
    assert weights(sweep) == dict.fromkeys(("GA+GD", "NPO+GD", "ME+GD", "DPO+GD", "IDK+GD", "IDK+AP"), 1)
    assert (sweep.train.max_length, sweep.evaluation.max_rows_per_set) == (500, 300)
    assert [num_trials(sweep, entry) for entry in sweep.methods] == [1] * 6


def test_real_world_paper():
    sweep = load("real_world_paper")
    assert sweep.model.target == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert sweep.model.template == "llama3-instruct"
    assert (sweep.scenario.retain_sets, sweep.forget_sets) == ({"forget": "neighbor"}, ("forget",))
    assert weights(sweep) == {name: 0.5 if name == "ME+GD" else 1 for name in (*BASELINES, "ME+GD", "IDK+AP")}
    assert (sweep.train.max_length, sweep.evaluation.max_rows_per_set) == (300, None)
    fixed = {}
    for entry in sweep.methods:
        space = {key: searched.choices for key, searched in cell_space(sweep, entry).items()}
        train = trial_config(sweep, entry, "forget", {}).train
        if entry.name in BASELINES:
            assert space == {"train.learning_rate": (1e-5, 5e-6, 2e-6), "train.epochs": (5, 3)}
            assert num_trials(sweep, entry) == 6
        else:
            assert (space, num_trials(sweep, entry)) == ({}, 1)
            fixed[entry.name] = (train.learning_rate, train.epochs)
    assert fixed == {"ME+GD": (5e-6, 5), "IDK+AP": (1e-5, 5)}
    trial = trial_config(sweep, sweep.methods[0], "forget", {})
    assert trial.downstream == DOWNSTREAM == ("arc_challenge", "mmlu", "truthfulqa_mc1", "triviaqa", "gsm8k")


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_start_where_the_paper_is(name):
    """Of adapters the paper has no learning rate."""
    sweep, paper = load(name), load(SEARCHES[name])
    by_name = {entry.name: entry for entry in paper.methods}
    assert (sweep.train.convention, sweep.search.sampler) == ("masked", "tpe")
    for entry in sweep.methods:
        first = first_values(sweep, entry)
        assert {"train.learning_rate", "train.epochs", "method.forget_weight"} <= set(first)
        assert ("method.beta" in first) == bool({"NPO", "DPO", "AP"} & set(entry.name.split("+")))
        found = trial_config(sweep, entry, sweep.forget_sets[0], first)
        wanted = trial_config(paper, by_name[entry.name], sweep.forget_sets[0], {})
        same = {"convention": "paper_code", "micro_batch_size": 4}  # masked: no matter how a step is cut
        same |= {"learning_rate": 1e-5} if name == "tofu_lora" else {}
        assert found.train.model_copy(update=same) == wanted.train
        for part in ("forget_weight", "retain_weight", "forget", "retain"):
            assert getattr(found.method, part) == getattr(wanted.method, part)
        for key, searched in cell_space(sweep, entry).items():
            if hasattr(searched, "choices"):
                assert first[key] in searched.choices
            else:
                assert searched.low <= first[key] <= searched.high
    assert sweep.lora == (LoraConfig(r=8, alpha=32, dropout=0.05) if name == "tofu_lora" else None)
