"""Several sweeps in one report: measured together where they can be, refused by key and value where not."""

import json

import numpy as np
import pytest
from synthetic_sweep import METHODS, OBJECTIVES, cell, data, finished, header, started, write_records, write_sweep
from test_confirmation_table import confirmed
from test_confirmation_table import summary_of as confirmed_summary
from test_report_page import Page

from orchestrator.analysis.confirmation import confirmation_table, in_words
from orchestrator.analysis.confirmed_volume import confirmed_volumes
from orchestrator.analysis.headline import finding
from orchestrator.analysis.overlay import OverlayError, overlay
from orchestrator.analysis.pareto import front
from orchestrator.analysis.summary import summarize
from orchestrator.report import main
from orchestrator.tracking.journal import read_records
from orchestrator.tracking.sweep_log import load_sweep

CONFIG = header().config


def summary_of(folder, **changes):
    return summarize(load_sweep(write_sweep(folder, **changes)))


@pytest.fixture
def two(tmp_path):
    return {"one": summary_of(tmp_path / "one"), "two": summary_of(tmp_path / "two", num_trials=8, seed=3)}


def test_methods_of_both_stand_side_by_side(two):
    both = overlay(two)
    assert both.methods == tuple(f"{method} ({name})" for name in two for method in METHODS)
    assert both.name == "one + two" and both.state == "done" and both.num_planned == 80
    assert len(both.trials) == 40 + 64 and both.counts["COMPLETE"] == 36 + 60
    assert both.seconds == pytest.approx(sum(summary.seconds for summary in two.values()))
    assert [part.name for part in both.parts] == ["one", "two"] and both.parts[1].seed == 3


def test_fronts_and_hypervolumes_are_taken_together_by_one_measure(two):
    both = overlay(two).forget_sets[0]
    alone = {name: summary.forget_sets[0] for name, summary in two.items()}
    assert both.measure == alone["one"].measure and len(both.baselines) == 2
    for name, group in alone.items():
        for cell_ in group.cells:
            (same,) = (other for other in both.cells if other.method == f"{cell_.method} ({name})")
            assert same.hypervolume == cell_.hypervolume
            assert [trial.key for trial in same.front] == [f"{name}: {trial.key}" for trial in cell_.front]
    values = np.array([trial.objectives for group in alone.values() for trial in group.front])
    kept = values[front(values, ["maximize", "maximize"])]
    assert sorted(trial.objectives for trial in both.front) == sorted(map(tuple, kept))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"convention": "paper_code"}}, 'train.convention is "masked" in one, but "paper_code" in two'),
        (
            {"scenario": CONFIG["scenario"] | {"type": "continual"}},
            'scenario.type is "tofu" in one, but "continual" in two',
        ),
        ({"model": {"path": "m", "target": "other"}}, 'model.target is not set in one, but "other" in two'),
        ({"evaluation": {"max_rows_per_set": 9}}, "evaluation.max_rows_per_set is not set in one, but 9 in two"),
        ({"confirm": {"seeds": 2}}, "confirm.held_out is not set in one, but 0.5 in two"),
    ],
)
def test_what_is_not_comparable_is_refused_by_key_values_and_remedy(two, tmp_path, changes, said):
    other = summary_of(tmp_path / "other", config=CONFIG | changes)
    with pytest.raises(OverlayError, match="report them one by one") as error:
        overlay({"one": two["one"], "two": other})
    assert said in str(error.value)


def test_other_objectives_and_judges_are_refused(two, tmp_path):
    down = OBJECTIVES[1].model_copy(update={"worst": -1.0})
    other = summary_of(tmp_path / "goals", objectives=(OBJECTIVES[0], down))
    with pytest.raises(OverlayError, match="objectives is .* in one, but .*-1.0"):
        overlay({"one": two["one"], "two": other})
    end = finished("ME+GD/forget01/0", (0.5, 0.5)).model_copy(update={"judges": {"sentence_encoder": "mpnet"}})
    folder = write_records(tmp_path / "judge", [header(), started("ME+GD", "forget01", 0), end])
    with pytest.raises(OverlayError, match="judges.sentence_encoder is .*MiniLM.* in one, but .*mpnet.* in two"):
        overlay({"one": two["one"], "two": summarize(load_sweep(folder))})


def test_finalists_that_a_sweep_did_not_send_are_not_listed(two, tmp_path):
    sent = two["one"].forget_sets[0].ranking[0].front[0]
    start = started(sent.method, "forget01", 1).model_copy(
        update={"key": f"confirm/{sent.key}/s1", "confirms": sent.key}
    )
    records = list(read_records(write_sweep(tmp_path / "one" / "again") / "journal"))
    folder = write_records(tmp_path / "confirmed", [*records, start, finished(start.key, (0.5, 0.5))])
    both = overlay({"one": summarize(load_sweep(folder)), "two": two["two"]})
    table = confirmation_table(both, both.forget_sets[0])
    assert [row.trial.key for row in table.finalists] == [f"one: {sent.key}"]


def test_other_weights_under_the_same_name_are_refused(two, tmp_path):
    records = list(read_records(write_sweep(tmp_path / "other") / "journal"))
    changed = [
        record.model_copy(update={"objectives": (0.9, 0.21)})
        if record.kind == "trial_finished" and record.key == "before/forget01"
        else record
        for record in records
    ]
    other = summarize(load_sweep(write_records(tmp_path / "changed", changed)))
    with pytest.raises(
        OverlayError, match="before/forget01 has model_utility 0.630 in one, but 0.900 in two, so that the weights"
    ):
        overlay({"one": two["one"], "two": other})


def test_weights_with_another_digest_are_refused_though_they_score_alike(two, tmp_path):
    def scored(name, digest):
        records = read_records(write_sweep(tmp_path / f"{name} made") / "journal")
        changed = [
            record.model_copy(update={"weights_sha256": digest})
            if record.kind == "trial_finished" and record.key == "before/forget01"
            else record
            for record in records
        ]
        return summarize(load_sweep(write_records(tmp_path / name, changed)))

    one, other = scored("one", "a" * 64), scored("two", "b" * 64)
    said = (
        f"before/forget01 has weights with SHA-256 {'a' * 12} in one, but {'b' * 12} in two: the weights, or their "
        "precision, are others; report them one by one"
    )
    with pytest.raises(OverlayError, match=said):
        overlay({"one": one, "two": other})
    overlay({"one": one, "same": scored("same", "a" * 64), "old": two["two"]})  # old ones recorded none


def test_confirmed_hypervolumes_are_the_same_side_by_side(tmp_path):
    alone = confirmed_summary(tmp_path / "alone", confirmed())
    other = confirmed_summary(tmp_path / "other", confirmed())
    both = overlay({"a": alone, "b": other})
    found, whole = (confirmed_volumes(sweep, sweep.forget_sets[0]) for sweep in (both, alone))
    assert found.measure == whole.measure and found.measure.is_scaled
    seeds = {one.method: one.seeds for one in whole.methods}
    assert {one.method: one.seeds for one in found.methods} == {
        f"{method} ({name})": values for method, values in seeds.items() for name in "ab"
    }
    assert found.leaders == ("B (a)", "B (b)") and found.how_clearly == ""
    assert "B (a) and B (b) are level" in finding(both, both.forget_sets[0])
    assert "Left out" not in in_words(both)  # the second's runs of the baselines


def test_other_rows_under_the_same_names_are_refused(two, tmp_path):
    edited = {"forget01": data(40), "forget05": data(199)}
    other = summary_of(tmp_path / "edited", data=edited)
    with pytest.raises(OverlayError, match=r"data\.forget05\.forget is .* in one, but .* in two"):
        overlay({"one": two["one"], "two": other})
    old = summary_of(tmp_path / "old", data={})
    assert [group.num_rows for group in overlay({"old": old, "one": two["one"]}).forget_sets] == [40, 200]


def test_other_retain_models_of_one_forget_set_are_refused(tmp_path):
    one, other, more = ({"forget01": "a"}, {"forget01": "b"}, {"forget01": "a", "forget05": "b"})
    sweeps = [
        summary_of(tmp_path / name, config=CONFIG | {"model": CONFIG["model"] | {"retain_models": models}})
        for name, models in (("one", one), ("other", other), ("more", more))
    ]
    with pytest.raises(OverlayError, match=r'model\.retain_models\.forget01 is "a" in one, but "b" in two'):
        overlay(dict(zip(("one", "two"), sweeps, strict=False)))
    assert len(overlay({"one": sweeps[0], "more": sweeps[2]}).methods) == 2 * len(sweeps[0].methods)


def test_what_no_score_depends_on_may_differ(two, tmp_path):
    config = CONFIG | {"evaluation": {"batch_size": 7}, "resources": {"max_hours": 1}}
    records = [header(config=config, cells=(cell("LLMU", "forget01"),)), started("LLMU", "forget01", 0)]
    running = summarize(load_sweep(write_records(tmp_path / "running", records)))
    both = overlay({"one": two["one"], "new": running})
    assert both.state == "new running or cut off" and both.methods[-1] == "LLMU (new)"


def test_the_page_names_each_sweep_and_how_it_was_made(tmp_path, capsys):
    folders = [str(write_sweep(tmp_path / name, name=name, seed=seed)) for name, seed in (("red", 5), ("blue", 6))]
    assert main([*folders, "--out", str(tmp_path / "both.html")]) == 0
    page = Page((tmp_path / "both.html").read_text())
    for expected in ("red + blue", "2 sweeps are overlaid", "ME+GD (red)", "ME+GD (blue)", "Seed 5", "Seed 6"):
        assert expected in page.text, expected
    (data,) = (json.loads(text) for text in page.scripts if text.startswith('{"name"'))
    assert data["trials"]["rows"][0][0] == "red: GA+GD/forget01/0" and len(data["trials"]["rows"]) == 80


def test_sweeps_of_one_name_are_told_apart_by_their_folders(tmp_path, capsys):
    folders = [str(write_sweep(tmp_path / name)) for name in ("a-1", "a-2")]
    assert main([*folders, "--out", str(tmp_path / "both.html")]) == 0
    assert "ME+GD (a-1)" in (tmp_path / "both.html").read_text()
    assert main([folders[0], folders[0], "--out", str(tmp_path / "both.html")]) == 2
    assert "stands there twice" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(folders)
    assert stopped.value.code == 2 and "add --out FILE" in capsys.readouterr().err
