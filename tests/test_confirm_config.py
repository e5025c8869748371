"""What a sweep file may say about confirmation, and that saying nothing changes nothing."""

import pytest

from orchestrator.config import trial_config
from orchestrator.confirm_config import ConfirmConfig
from orchestrator.load_config import ConfigError, load_config
from orchestrator.tracking.journal import TrialStarted, parse_record
from orchestrator.trial_config import QuestionPart, TrialConfig


def trial(*overrides, name="quickstart"):
    sweep = load_config(name, overrides)
    return sweep, trial_config(sweep, sweep.methods[0], sweep.forget_sets[0], {})


def test_without_seeds_a_trial_is_what_it_was():
    sweep, config = trial()
    assert (sweep.confirm.share, config.questions) == (None, None)
    assert "questions" not in config.model_dump() and "questions" not in config.model_dump_json()
    started = TrialStarted(key="k", method="GA", forget_set="f", number=0, params={}, config={})
    assert "confirms" not in started.model_dump_json()


@pytest.mark.parametrize(
    ("overrides", "share"),
    [(["confirm.seeds=3"], 0.5), (["confirm.seeds=3", "confirm.held_out=0.2"], 0.2), (["confirm.held_out=0.2"], 0.2)],
)
def test_the_search_leaves_the_share_alone(overrides, share):
    sweep, config = trial(*overrides)
    assert config.questions == QuestionPart(part="search", held_out=share)
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    again = sweep.confirm.again(config, 7)
    assert (again.seed, again.questions, again.downstream) == (7, QuestionPart(part="held_out", held_out=share), ())
    assert again.model_copy(
        update={"seed": config.seed, "questions": config.questions, "evaluation": config.evaluation}
    ) == config  # fmt: skip


def test_what_a_record_confirms_is_read_back():
    values = dict(key="confirm/k/s1", method="GA", forget_set="f", number=1, params={}, config={}, confirms="k")
    assert parse_record(TrialStarted(**values).model_dump_json()).confirms == "k"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["confirm.seeds=-1"], "confirm.seeds: input should be greater than or equal to 0"),
        (["confirm.held_out=0"], "confirm.held_out: input should be greater than 0"),
        (["confirm.held_out=1"], "confirm.held_out: input should be less than 1"),
        (["confirm.seed=1"], r"confirm.seed: unknown key; did you mean confirm.seeds\?"),
        (
            ["confirm.seeds=2", "evaluation.downstream=[arc_challenge]", "objectives=[downstream/arc_challenge]"],
            "confirm.held_out=0.5: downstream/arc_challenge is an objective, but the questions of downstream tasks",
        ),
        (
            ["confirm.seeds=2", "train.convention=paper_code"],
            "confirm.seeds=2: under train.convention=paper_code rows come in the published code's order whatever",
        ),
    ],
)
def test_what_cannot_be_confirmed_is_one_error_that_names_the_key(overrides, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        load_config("quickstart", overrides)


def test_adapters_begin_differently_under_the_published_order():
    assert trial("confirm.seeds=2", "train.convention=paper_code", "lora={}")[1].questions is not None


def test_a_share_of_nothing_is_no_part():
    with pytest.raises(AssertionError):
        ConfirmConfig().held_out_part  # noqa: B018
