"""Sweep files and overrides: what they become, and what is said of those that cannot be used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.config import MethodEntry, SweepConfig, baseline_config, cell_space, trial_config
from orchestrator.evaluation_config import EvaluateConfig
from orchestrator.load_config import ConfigError, build_config, load_config, shipped_sweeps, validate
from orchestrator.space import FloatRange
from tests.test_bad_input import SWEEP


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


@pytest.mark.parametrize("given", [None, 7])
@pytest.mark.parametrize("scenario", ["tofu", "real_world"])
def test_real_people_are_asked_everything_unless_told_otherwise(scenario, given):
    values = {"scenario": {"name": scenario, "source": "."}, "evaluation": {"max_rows_per_set": given} if given else {}}
    rest = {"name": "a", "methods": ["GA+GD"], "forget_sets": ["forget"], "model": {"target": "m"}}
    sweep = SweepConfig.model_validate(values | rest | {"objectives": ["model_utility"]})
    expected = given or (None if scenario == "real_world" else 300)
    assert sweep.evaluation.max_rows_per_set == expected
    assert SweepConfig.model_validate(sweep.model_dump()).evaluation == sweep.evaluation
    assert EvaluateConfig.model_validate(values).evaluation.max_rows_per_set == expected
