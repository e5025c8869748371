"""150 published models, each tuned by others: how many are not dominated, and the page about them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.pareto import front, is_dominated

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT.parent / "shared" / "data" / "tuned_150_runs.json"
pytestmark = pytest.mark.skipif(
    not MODELS.is_file(), reason="no ../shared/data/tuned_150_runs.json beside the checkout"
)


@pytest.fixture(scope="module")
def published():
    path = ROOT / "docs" / "make_published_models.py"
    spec = importlib.util.spec_from_file_location("make_published_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_25_of_150_published_models_are_not_dominated(published):
    rows = published.tuned(published.read(MODELS))
    values = published.values(rows)
    assert values.shape == (150, 3)
    members = front(values, ["maximize"] * 3)
    assert len(members) == 25
    by_hand = [i for i, v in enumerate(values) if not ((values >= v).all(axis=1) & (values > v).any(axis=1)).any()]
    assert members.tolist() == by_hand
    assert not any(is_dominated(values[i], values, ["maximize"] * 3) for i in members)
    assert len(np.unique([rows[i]["method"] for i in members])) == 6


def test_the_page_is_what_the_models_say(published):
    written = published.PAGE.read_text(encoding="utf-8")
    again = "out of date: run python docs/make_published_models.py"
    assert written == published.page(published.read(MODELS)), again


def test_what_the_readme_says_of_default_and_tuned_settings(published):
    models = published.read(MODELS)
    tuned = published.tuned(models)
    best = {row["method"]: max(one["overall"] for one in tuned if one["method"] == row["method"]) for row in tuned}
    low = [row for row in tuned if row["lr"] == 1e-5]
    assert {row["method"] for row in low} == best.keys()
    assert max(row["overall"] for row in low if row["method"] == "npo") == pytest.approx(0.30, abs=0.005)
    assert all(row["overall"] < 1e-6 for row in low if row["method"] != "npo")
    assert sorted(round(value, 2) for value in best.values())[2:] == [0.62, 0.64, 0.71, 0.72, 0.74, 0.77]
    (retrained,) = (row for row in models if row["method"] == "retain")
    assert retrained["overall"] == pytest.approx(0.81, abs=0.005)
