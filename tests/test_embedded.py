"""Which tiny models stand for `embedded`; that they can be made is what tests of whole sweeps show."""

import pytest

from orchestrator.embedded import plan, prepare
from orchestrator.load_config import load_config


@pytest.fixture
def recipes(tmp_path):
    return lambda sweep, *overrides: plan(load_config(sweep, [f"storage={tmp_path}", *overrides]))


def test_each_embedded_part_has_a_folder_of_its_own_in_the_cache(recipes, tmp_path):
    found = recipes("quickstart", "forget_sets=[forget05, forget10]")
    assert list(found) == ["judge", "target", "forget05", "forget10"]
    assert len({recipe.folder for recipe in found.values()}) == 4
    assert {recipe.folder.parent for recipe in found.values()} == {tmp_path / "cache"}


def test_a_chain_starts_from_the_same_model_as_a_single_task(recipes):
    single, chain = recipes("quickstart"), recipes("continual_tiny")
    assert list(chain) == ["judge", "target"]
    assert chain == {"judge": single["judge"], "target": single["target"]}


@pytest.mark.parametrize("override", ["scenario.corpus_seed=8", "scenario.num_authors=30"])
def test_other_authors_make_other_models(override, recipes):
    one, other = recipes("quickstart"), recipes("quickstart", override)
    assert not {recipe.folder for recipe in one.values()} & {recipe.folder for recipe in other.values()}
    assert override in other["target"].arguments


def test_only_what_is_embedded_is_made(recipes, tmp_path):
    chosen = ["model.target=/models/target", "model.retain_models={forget05: /models/retain}"]
    assert list(recipes("quickstart", *chosen, "forget_sets=[forget05]")) == ["judge"]
    nothing = [*chosen, "forget_sets=[forget05]", "evaluation.entailment=/models/judge", f"storage={tmp_path}"]
    sweep = load_config("quickstart", nothing)
    said: list[str] = []
    assert prepare(sweep, said.append) == sweep
    assert not said and not list(tmp_path.iterdir())
