"""Sweep files and overrides: what they become, and what is said of those that cannot be used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from methods.config import VALID_METHODS
from orchestrator.config import MethodEntry, SweepConfig, baseline_config, cell_space, trial_config
from orchestrator.load_config import ConfigError, build_config, load_config, shipped_sweeps, validate
from orchestrator.space import FloatRange

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
LIST_OF_METHODS = ", ".join(VALID_METHODS)


@pytest.fixture
def load(tmp_path):
    def load_with(*overrides, text=SWEEP):
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return load_config(str(path), overrides)

    return load_with


@pytest.fixture
def message(load):
    def message_of(*overrides, text=SWEEP):
        with pytest.raises(ConfigError) as error:
            load(*overrides, text=text)
        return str(error.value)

    return message_of


BAD_OVERRIDES = [
    # unknown keys
    ("trian.epochs=1", "trian: unknown key; did you mean train?"),
    ("train.learning_rat=1e-5", "train.learning_rat: unknown key; did you mean train.learning_rate?"),
    ("scenario.num_author=40", "scenario.num_author: unknown key; did you mean scenario.num_authors?"),
    ("scenario.source=/data", "scenario.source: unknown key; valid keys here are name, corpus_seed, num_authors,"),
    ("zero.xyz=1", "zero.xyz: unknown key; valid keys here are stage, offload_optimizer, offload_parameters"),
    ("methods=[{name: GA, betta: 1}]", "methods.0.betta: unknown key; did you mean methods.0.beta?"),
    # methods, forget sets
    ("methods=[GA,MEGA]", f"methods.1: unknown method 'MEGA'; valid names are {LIST_OF_METHODS}"),
    ("methods=[npo]", "methods.0: unknown method 'npo'; valid names are GA, GA+GD"),
    ("methods=[]", "methods: input should name at least 1, but got []; write methods=[VALUE]"),
    ("methods=GA", "methods: input should be a list, but got 'GA'; write methods=[VALUE]"),
    ("methods=[NPO,GA,NPO]", "methods: NPO stands there twice; name each once"),
    ("methods=[{name: NPO, beta: 0}]", "methods.0.beta: input should be greater than 0, but got 0"),
    ("forget_sets=[forget05,forget05]", "forget_sets: forget05 stands there twice; name each once"),
    ("forget_sets=[../forget05]", "forget_sets: '../forget05' is not a name; use letters, digits, _ and -"),
    # numbers
    ("train.learning_rate=0", "train.learning_rate: input should be greater than 0, but got 0"),
    ("train.learning_rate=-1e-5", "train.learning_rate: input should be greater than 0, but got -1e-05"),
    ("train.learning_rate=inf", "train.learning_rate: input should be a finite number, but got"),
    ("train.learning_rate=nan", "train.learning_rate: input should be a finite number, but got"),
    ("train.learning_rate=fast", "train.learning_rate: input should be a valid number, unable to parse"),
    ("train.learning_rate=", "train.learning_rate: input should be a valid number, but got None"),
    ("train.batch_size=2.5", "train.batch_size: input should be a valid integer, got a number with a fractional"),
    ("search.trials_per_cell=0", "search.trials_per_cell: input should be greater than 0, but got 0"),
    ("seed=-1", "seed: input should be greater than or equal to 0, but got -1"),
    ("search.max_failed_share=1.5", "search.max_failed_share: input should be less than or equal to 1, but got 1.5"),
    ("train.adam_beta1=1", "train.adam_beta1: input should be less than 1, but got 1"),
    # choices
    ("zero.stage=4", "zero.stage: input should be 0, 1, 2 or 3, but got 4"),
    ("search.sampler=TPE", "search.sampler: input should be 'tpe', 'random', 'gp' or 'grid', but got 'TPE'"),
    ("scenario.name=muse", "scenario.name: input should be one of 'authors', 'tofu', 'continual', 'real_world',"),
    ("name=a/b", "name: string should match pattern"),
    ("train=5", "train: input should be keys with values, but got 5; write train.KEY=VALUE"),
    # settings that do not go together
    (
        "train.micro_batch_size=16",
        "train: micro_batch_size <= batch_size must hold, but got 16 and 8; lower train.micro_batch_size",
    ),
    (
        "resources.gpus_per_worker=0.5",
        "resources: a fraction of a GPU (0.5) needs workers_per_trial=1, but got 2: workers of one trial cannot share",
    ),
    ("zero={stage: 0, offload_optimizer: true}", "zero: offload_optimizer needs stage >= 1, but got stage 0; raise"),
    ("zero={stage: 2, offload_parameters: true}", "zero: offload_parameters needs stage 3, but got stage 2; set"),
    ("model.retain_models={forget01: x}", "model.retain_models: forget01 is no forget set of this sweep (forget05,"),
    # objectives
    ("objectives=[utility]", "objectives: no metric is called 'utility'; scenario authors produces forget/rouge,"),
    ("objectives=[authors/rouge]", "objectives: no metric is called 'authors/rouge'; scenario authors produces"),
    ("objectives=[]", "objectives: input should name at least 1, but got []; write objectives=[VALUE]"),
    ("objectives=[forget_efficacy,forget_efficacy]", "objectives: forget_efficacy stands there twice; name each once"),
    # search space
    (
        "search.space.train.learning_rate.low=1",
        "search.space.train.learning_rate: low <= high must hold, but got low=1 and high=0.001; swap them",
    ),
    (
        "search.space.train.learning_rate.low=0",
        "search.space.train.learning_rate: a log range needs low > 0, but got low=0; raise it or set log=false",
    ),
    ("search.space.train.epochs={}", "search.space.train.epochs.low: missing; set search.space.train.epochs.low=VALUE"),
    ("search.space.train.epochs={low: 1}", "search.space.train.epochs.high: missing; set search.space.train.epochs.hi"),
    ("search.space.train.epochs=5", "search.space.train.epochs: input should be keys with values, but got 5; write"),
    ("search.space.train.epochs.choices=[]", "search.space.train.epochs.choices: input should name at least 1, but"),
    (
        "search.space.train.epochs={type: integer, low: 1, high: 2}",
        "search.space.train.epochs.type: input should be one of 'float', 'int', 'choice', but got 'integer'",
    ),
    (
        "search.space.train.batch_size={type: int, low: 8, high: 9.5}",
        "search.space.train.batch_size.high: input should be a valid integer",
    ),
    (
        "search.space.train.epochs={low: 1, hihg: 2}",
        "search.space.train.epochs.high: missing; set search.space.train.epochs.high=VALUE (and 1 more)",
    ),
    ("search.space.train.learnin_rate={low: 1, high: 2}", "search.space: 'train.learnin_rate' names no number or"),
    ("search.space.model.target={choices: [a]}", "search.space: 'model.target' names no number or choice of a trial;"),
    ("search.space.train.convention={choices: [masked]}", "search.space: 'train.convention' names no number or choice"),
    ("search.space.method.gamma={low: 1, high: 2}", "search.space: 'method.gamma' names no number or choice"),
    (
        "search.space.zero.stage={choices: [1, 5]}",
        "search.space.zero.stage: 5 is not acceptable: Input should be 0, 1, 2 or 3",
    ),
    (
        "search.space.train.micro_batch_size={choices: [4, 16]}",
        "search.space.train.micro_batch_size: 16 is not acceptable: micro_batch_size <= batch_size must hold, but got",
    ),
    (
        "search.space.method.beta.low=0",
        "search.space.method.beta: 0.0 is not acceptable: Input should be greater than 0",
    ),
    # not even key=value
    ("train.epochs", "'train.epochs' is not an override; write key=value, such as train.learning_rate=1e-5"),
    ("=1", "'=1' is not an override; write key=value, such as train.learning_rate=1e-5"),
    ("methods=[GA", "override 'methods=[GA' is not YAML: while parsing"),
    ("methods.0=GA", "override 'methods.0=GA' cannot be read: "),
    ("train.epochs=${days}", "{path} cannot be read: Interpolation key 'days' not found"),
]


@pytest.mark.parametrize(("override", "start"), BAD_OVERRIDES, ids=[override for override, _ in BAD_OVERRIDES])
def test_an_override_that_cannot_be_used(override, start, message, tmp_path):
    assert message(override).startswith(start.replace("{path}", str(tmp_path / "sweep.yaml")))


@pytest.mark.parametrize("objective", ["forget_quality", "forget_quality_log10"])
def test_forget_quality_needs_a_retain_model_of_every_forget_set(objective, message, load):
    chosen = f"objectives=[{objective}]"
    assert load(chosen).objectives == (objective,)
    target = SWEEP.replace("retain_models: embedded", "retain_models: {forget10: /models/retain90}")
    assert message(chosen, text=target) == (
        f"objectives: {objective} compares with a retain model, and forget05 has none; set model.retain_models"
    )
    assert load(chosen, "model.retain_models.forget05=/models/retain95", text=target).objectives == (objective,)


def test_embedded_models_are_made_for_authors_only(message):
    text = SWEEP.replace("name: authors", "name: tofu")
    assert message(text=text) == (
        "model: 'embedded' is only made for generated authors, but got scenario tofu; "
        "set model.target to a folder or hub name"
    )


BAD_SCENARIOS = [
    (
        "{name: tofu, retain_logs: {forget01: log.json}}",
        "scenario.retain_logs: forget01 is no forget set of this sweep",
    ),
    (
        "{name: tofu, retain_logs: log.json}",
        "scenario.retain_logs: input should be a valid dictionary, but got 'log.json'",
    ),
    ("{name: tofu, tasks: [1]}", "scenario.tasks: unknown key; did you mean scenario.task_id?"),
    ("{name: continual, num_tasks: 0}", "scenario.num_tasks: input should be greater than 0, but got 0"),
    ("{name: continual, tasks: []}", "scenario.tasks: input should name at least 1, but got []"),
    ("{name: continual, reference: first}", "scenario.reference: input should be 'previous' or 'initial', but got"),
    (
        "{name: continual, source: /data}",
        "model: 'embedded' is only made for generated authors, but got scenario conti",
    ),
    ("{name: continual}", "model.retain_models: scenario continual is measured against none, because each task has"),
    ("{name: real_world}", "scenario.source: missing; set scenario.source=VALUE"),
    (
        "{name: real_world, source: /data}",
        "model: 'embedded' is only made for generated authors, but got scenario real",
    ),
    (
        "{name: real_world, source: /data, task_id: 1}",
        "scenario.task_id: unknown key; valid keys here are name, source,",
    ),
]


@pytest.mark.parametrize(("scenario", "start"), BAD_SCENARIOS)
def test_a_scenario_that_cannot_be(scenario, start, message):
    text = SWEEP.replace("{name: authors}", scenario)
    if "tofu" in scenario:
        text = text.replace("{target: embedded, retain_models: embedded}", "{target: /models/target}")
    assert message(text=text).startswith(start)


def test_a_saved_log_stands_for_a_retain_model(load, message):
    text = SWEEP.replace("{target: embedded, retain_models: embedded}", "{target: /models/target}")
    text = text.replace(
        "{name: authors}", "{name: tofu, retain_logs: {forget05: /logs/a.json, forget10: /logs/b.json}}"
    )
    assert load("objectives=[forget_quality]", text=text).scenario.retain_logs["forget10"] == "/logs/b.json"
    one = text.replace(", forget10: /logs/b.json", "")
    assert message("objectives=[forget_quality]", text=one).startswith(
        "objectives: forget_quality compares with a retain model, and forget10 has none; set model.retain_models or "
        "scenario.retain_logs"
    )
    assert message("model.retain_models={forget10: /models/retain90}", text=text) == (
        "scenario.retain_logs: forget10 has a retain model in model.retain_models too, and Forget Quality compares "
        "with one; name the model or its log"
    )
    assert load("model.retain_models={forget10: /models/retain90}", text=one)


BAD_FILES = [
    ("", "name: missing; set name=VALUE (and 3 more)"),
    ("- GA\n", "{path} holds no mapping of keys to values; write `name: ...` and so on"),
    ("name: [1\n", '{path} is not YAML: while parsing a flow sequence in "{path}", line 1, column 7'),
    ("name: a\nname: b\n", "{path} is not YAML: while constructing a mapping"),
    ("name: ${x}\n", "{path} cannot be read: Interpolation key 'x' not found"),
    (SWEEP.replace("{name: authors}", "{corpus_seed: 3}"), "scenario.name: missing; set scenario.name=VALUE"),
    (SWEEP.replace("scenario: {name: authors}\n", ""), "scenario: missing; set scenario=VALUE"),
]


@pytest.mark.parametrize(("text", "start"), BAD_FILES)
def test_a_file_that_cannot_be_used(text, start, message, tmp_path):
    assert message(text=text).startswith(start.replace("{path}", str(tmp_path / "sweep.yaml")))


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=f"^{path} cannot be read: 'utf-8' codec"):
        load_config(str(path))


@pytest.mark.parametrize("name", ["quikstart", "no/such/file.yaml", ".", ""])
def test_an_unknown_sweep_is_an_error_that_lists_the_shipped_ones(name):
    with pytest.raises(ConfigError) as error:
        load_config(name)
    shipped = ", ".join(shipped_sweeps())
    assert str(error.value) == f"no sweep {name!r}: it is neither a file nor one of the shipped sweeps {shipped}"


def test_several_mistakes_are_counted(message):
    assert message("train.epochs=0", "zero.stage=7", "seed=-1").endswith(" (and 2 more)")


def test_quickstart_is_shipped():
    assert "quickstart" in shipped_sweeps()


def test_overrides_go_where_their_key_says_and_the_last_one_holds(load):
    sweep = load("train.epochs=3", "train.epochs=2", "seed=7", "objectives=[forget/rouge]", "storage=/tmp/x")
    assert (sweep.train.epochs, sweep.seed, sweep.objectives) == (2.0, 7, ("forget/rouge",))
    assert sweep.tracking_uri == "sqlite:////tmp/x/mlflow.db"
    assert load("tracking.uri=http://host:5000").tracking_uri == "http://host:5000"
    assert [entry.name for entry in load("methods=[NPO,LLMU]").methods] == ["NPO", "LLMU"]


def test_a_method_is_a_name_or_a_name_with_settings(load):
    plain, _, weighted = load().methods
    assert plain == MethodEntry(name="GA+GD")
    assert weighted == MethodEntry(name="ME+GD", forget_weight=0.1)


def test_nested_and_dotted_search_spaces_are_the_same(load):
    nested = "    train:\n      learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}\n"
    dotted = "    train.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}\n"
    assert nested in SWEEP
    assert load(text=SWEEP.replace(nested, dotted)) == load()
    assert list(load().search.space) == ["train.learning_rate", "method.beta"]


def test_ranges_and_choices(load):
    sweep = load(
        "search.space.train.epochs={choices: [1, 5]}",
        "search.space.train.batch_size={type: int, low: 4, high: 16, log: true}",
    )
    kinds = {key: (searched.type, searched.bounds[:2]) for key, searched in sweep.search.space.items()}
    assert kinds == {
        "train.learning_rate": ("float", (1e-4, 1e-3)),
        "method.beta": ("float", (0.1, 1.0)),
        "train.epochs": ("choice", (1, 5)),
        "train.batch_size": ("int", (4, 16)),
    }


@given(low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6), log=st.booleans())
def test_a_range_is_ordered_and_positive_if_logarithmic(low, high, log):
    if low <= high and not (log and low <= 0):
        assert FloatRange(low=low, high=high, log=log).bounds[:2] == (low, high)
    else:
        with pytest.raises(ValidationError, match=r"low <= high must hold|a log range needs low > 0"):
            FloatRange(low=low, high=high, log=log)


SPACE = (
    "methods=[GA,GA+GD,NPO,NPO+GD,GA+AP,LLMU]",
    "search.space.method.forget_weight={low: 0.1, high: 1}",
    "search.space.method.retain_weight={low: 0.1, high: 1}",
)
CELL_SPACES = {
    "GA": {"forget_weight"},
    "GA+GD": {"forget_weight", "retain_weight"},
    "NPO": {"beta", "forget_weight"},
    "NPO+GD": {"beta", "forget_weight", "retain_weight"},
    "GA+AP": {"beta", "forget_weight", "retain_weight"},
    "LLMU": {"forget_weight", "retain_weight"},
}


def test_a_cell_searches_only_what_its_method_has(load):
    sweep = load(*SPACE)
    for entry in sweep.methods:
        expected = {"train.learning_rate", *(f"method.{name}" for name in CELL_SPACES[entry.name])}
        assert set(cell_space(sweep, entry)) == expected


def test_sampled_values_go_into_the_trial(load):
    sweep = load("seed=9")
    entry = MethodEntry(name="NPO+AP", beta=0.2, retain_weight=2.0)
    params = {"train.learning_rate": 3e-4, "train.epochs": 2, "zero.stage": 3, "method.beta": 0.7}
    trial = trial_config(sweep, entry, "forget10", params | {"method.forget_weight": 0.4})
    assert trial.method.name == "NPO+AP"
    assert (trial.method.forget.beta, trial.method.retain.beta) == (0.7, 0.7)
    assert (trial.method.forget_weight, trial.method.retain_weight) == (0.4, 2.0)
    assert (trial.train.learning_rate, trial.train.epochs, trial.zero.stage) == (3e-4, 2.0, 3)
    assert (trial.train.batch_size, trial.train.micro_batch_size) == (8, 4)
    assert (trial.forget_set, trial.seed, trial.scenario, trial.model) == ("forget10", 9, sweep.scenario, sweep.model)


def test_without_sampled_values_a_trial_has_the_cells_own(load):
    sweep = load("train.convention=paper_code")
    trial = trial_config(sweep, sweep.methods[2], "forget05", {})
    assert (trial.method.name, trial.method.forget_weight) == ("ME+GD", 0.1)
    assert trial.method.convention == trial.train.convention == "paper_code"
    assert (trial.train, trial.zero, trial.evaluation) == (sweep.train, sweep.zero, sweep.evaluation)


def test_a_sampled_value_out_of_range_is_an_error(load):
    with pytest.raises(ValueError, match="greater than 0"):
        trial_config(load(), MethodEntry(name="GA"), "forget05", {"train.learning_rate": 0.0})


def test_a_baseline_scores_another_model_and_trains_nothing(load):
    sweep = load()
    trial = baseline_config(sweep, "forget05", "/models/retain95")
    assert trial.method is None
    assert (trial.model.target, trial.forget_set) == ("/models/retain95", "forget05")
    assert trial.evaluation == sweep.evaluation


def test_a_configuration_cannot_be_changed(load):
    with pytest.raises(ValidationError, match="frozen"):
        load().seed = 3


def test_values_that_no_file_holds_are_validated_too():
    with pytest.raises(ConfigError, match="^name: missing; set name=VALUE"):
        validate(SweepConfig, {})


def test_a_range_of_fractions_for_whole_numbers_is_refused(message):
    text = message("search.space.train.batch_size={low: 4, high: 8}")
    assert text.startswith("search.space.train.batch_size: 5.5")


def test_choices_laid_over_a_range_replace_it():
    sweep = load_config("quickstart", ["search.space.train.learning_rate.choices=[1.0e-4, 1.0e-3]"])
    assert sweep.search.space["train.learning_rate"].choices == (1e-4, 1e-3)


def test_a_space_that_was_written_down_can_be_overridden_again():
    sweep = load_config("quickstart")
    again = build_config(SweepConfig, None, ["search.space.method.beta.high=2"], base=sweep.model_dump(mode="json"))
    assert again.search.space["method.beta"].high == 2
    assert again.search.space["train.learning_rate"] == sweep.search.space["train.learning_rate"]
