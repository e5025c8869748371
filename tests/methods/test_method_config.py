import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from methods.config import VALID_METHODS, MEConfig, MethodConfig, parse_method

F, R, FI, RI, MI = "forget", "retain", "forget_refusal", "retain_refusal", "mismatch"
# method: parts, needs a reference, needs refusals, what a search may vary besides forget_weight
METHODS = {
    "GA": ({F}, False, False, set()),
    "GA+GD": ({F, R}, False, False, {"retain_weight"}),
    "GA+KL": ({F, R}, True, False, {"retain_weight"}),
    "GA+AP": ({F, R, RI}, False, True, {"retain_weight", "beta"}),
    "NPO": ({F}, True, False, {"beta"}),
    "NPO+GD": ({F, R}, True, False, {"retain_weight", "beta"}),
    "NPO+KL": ({F, R}, True, False, {"retain_weight", "beta"}),
    "NPO+AP": ({F, R, RI}, True, True, {"retain_weight", "beta"}),
    "DPO": ({F, FI}, True, True, {"beta"}),
    "DPO+GD": ({F, FI, R}, True, True, {"retain_weight", "beta"}),
    "DPO+KL": ({F, FI, R}, True, True, {"retain_weight", "beta"}),
    "DPO+AP": ({F, FI, R, RI}, True, True, {"retain_weight", "beta"}),
    "IDK": ({FI}, False, True, set()),
    "IDK+GD": ({FI, R}, False, True, {"retain_weight"}),
    "IDK+KL": ({FI, R}, True, True, {"retain_weight"}),
    "IDK+AP": ({FI, R, RI}, False, True, {"retain_weight", "beta"}),
    "ME": ({F}, False, False, set()),
    "ME+GD": ({F, R}, False, False, {"retain_weight"}),
    "ME+KL": ({F, R}, True, False, {"retain_weight"}),
    "ME+AP": ({F, R, RI}, False, True, {"retain_weight", "beta"}),
    "LLMU": ({F, R, MI}, True, False, {"retain_weight"}),
}


def test_the_table_holds_all_methods():
    assert set(METHODS) == set(VALID_METHODS)
    assert len(VALID_METHODS) == 21


@pytest.mark.parametrize("name", VALID_METHODS)
def test_every_name_is_the_name_of_its_method(name):
    config = parse_method(name, beta=0.5, forget_weight=2.0, retain_weight=3.0, convention="paper_code")
    assert config.name == name
    assert (config.forget_weight, config.retain_weight, config.convention) == (2.0, 3.0, "paper_code")
    assert MethodConfig.model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(("name", "expected"), METHODS.items())
def test_what_each_method_reads(name, expected):
    config = parse_method(name)
    assert (config.parts, config.needs_reference, config.needs_refusals) == expected[:3]
    assert config.settings == {"forget_weight"} | expected[3]


@pytest.mark.parametrize("name", VALID_METHODS)
def test_beta_goes_to_the_losses_that_have_one(name):
    config = parse_method(name, beta=0.7)
    for loss in (config.forget, config.retain):
        if loss is not None:
            assert getattr(loss, "beta", None) == (0.7 if loss.type in ("NPO", "DPO", "AP") else None)


WRONG = ["", "ga", "Me+GD", "MEGA", "GAA", "GA+", "+GD", "GA +GD", "GD", "GD+GA", "GA+GD+KL", "LLMU+GD", "NPO-GD"]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_is_not_exact_is_an_error_that_lists_the_valid_ones(name):
    with pytest.raises(ValueError) as error:
        parse_method(name)
    assert str(error.value) == f"unknown method {name!r}; valid names are {', '.join(VALID_METHODS)}"


@given(st.text(alphabet="GANPODIKMELU+ga ", max_size=8))
def test_no_other_string_is_a_method(name):
    if name in VALID_METHODS:
        assert parse_method(name).name == name
    else:
        with pytest.raises(ValueError, match="unknown method"):
            parse_method(name)


BAD = [
    ("NPO", {"beta": 0.0}, "beta"),
    ("NPO", {"beta": -0.1}, "beta"),
    ("GA+AP", {"beta": float("inf")}, "beta"),
    ("DPO", {"beta": float("nan")}, "beta"),
    ("GA", {"forget_weight": -1.0}, "forget_weight"),
    ("GA+GD", {"retain_weight": -1e-9}, "retain_weight"),
    ("GA", {"forget_weight": float("inf")}, "forget_weight"),
    ("GA", {"convention": "paper"}, "convention"),
]


@pytest.mark.parametrize(("name", "settings", "key"), BAD)
def test_a_number_out_of_range_is_named(name, settings, key):
    with pytest.raises(ValidationError) as error:
        parse_method(name, **settings)
    assert error.value.errors()[0]["loc"][-1] == key


def test_weights_may_be_zero():
    config = parse_method("GA+GD", forget_weight=0.0, retain_weight=0.0)
    assert (config.forget_weight, config.retain_weight) == (0.0, 0.0)


def test_a_method_cannot_be_changed_or_given_unknown_settings():
    with pytest.raises(ValidationError):
        parse_method("GA").forget_weight = 2.0
    with pytest.raises(ValidationError):
        MethodConfig.model_validate({"forget": {"type": "GA", "beta": 0.1}})


@pytest.mark.parametrize("name", VALID_METHODS)
def test_only_the_published_kl_reads_padding(name):
    assert parse_method(name).padded_parts == set()
    expected = {"retain"} if "KL" in name or name == "LLMU" else set()
    assert parse_method(name, convention="paper_code").padded_parts == expected


def test_the_direction_of_maximum_entropy_is_the_codes_unless_chosen():
    assert MEConfig().direction == "uniform_to_policy"
    with pytest.raises(ValidationError):
        MEConfig(direction="policy")


def test_configurations_do_without_torch():
    code = "import sys, methods.config; print('torch' in sys.modules, 'numpy' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]
