"""What the report says of fresh seeds and held-out questions; every number by hand."""

import re
from dataclasses import replace

import pytest
from rich.console import Console
from synthetic_sweep import FORGET_SETS, METHODS, finished, header, started, write_records, write_sweep

from orchestrator.analysis.build import write_report
from orchestrator.analysis.confirmation import by_seed, confirmation_table, in_words
from orchestrator.analysis.confirmed_volume import confirmed_volumes
from orchestrator.analysis.headline import headline
from orchestrator.analysis.kept import best_kept, kept_again
from orchestrator.analysis.summary import summarize
from orchestrator.analysis.terminal import render_summary
from orchestrator.tracking.journal import CellRecord, ObjectiveRecord, SweepEnded, SweepStarted, TrialState
from orchestrator.tracking.sweep_log import load_sweep

SEEDS = 2
# The search: three trials on A's front, one on B's, one of A that is not on it.
SEARCH = {("A", 0): (0.2, 0.9), ("A", 1): (0.5, 0.5), ("A", 2): (0.9, 0.2), ("A", 3): (0.1, 0.1), ("B", 0): (0.6, 0.6)}
# Again: A/1 falls behind A/2, and A/0 keeps its place.
AGAIN = {
    ("A", 0): [(0.2, 0.8), (0.2, 0.9)], ("A", 1): [(0.2, 0.1), (0.4, 0.1)], ("A", 2): [(0.8, 0.2), (0.8, 0.3)],
    ("B", 0): [(0.5, 0.6), (0.7, 0.6)],
}  # fmt: skip
BASELINES = {"before": ((0.9, 0.1), (0.88, 0.1)), "retain_model": ((0.9, 0.8), (0.9, 0.85))}


def again(method, number, seed, objectives=None, **ending):
    key = f"{method}/f" if number is None else f"{method}/f/{number}"
    start = started(method, "f", seed).model_copy(
        update={"key": f"confirm/{key}" + (f"/s{seed}" if seed else ""), "confirms": key, "number": seed}
    )
    return [start] if objectives is ... else [start, finished(start.key, objectives, **ending)]


def records(runs):
    cells = tuple(CellRecord(name=f"{name}/f", method=name, forget_set="f", num_trials=4) for name in "AB")
    found = [header(cells=cells, config={"confirm": {"seeds": SEEDS}})]
    for kind, (search, _) in BASELINES.items():
        found += [started(kind, "f", None), finished(f"{kind}/f", search)]
    for (method, number), objectives in SEARCH.items():
        found += [started(method, "f", number), finished(f"{method}/f/{number}", objectives)]
    return [*found, *runs, SweepEnded(state="done")]


def confirmed():
    runs = [record for kind, (_, held_out) in BASELINES.items() for record in again(kind, None, None, held_out)]
    for seed in range(SEEDS):
        for (method, number), values in AGAIN.items():
            runs += again(method, number, seed + 1, values[seed])
    return runs


def summary_of(folder, runs):
    return summarize(load_sweep(write_records(folder, records(runs))))


def test_means_deviations_shifts_and_fronts_by_hand(tmp_path):
    summary = summary_of(tmp_path, confirmed())
    table = confirmation_table(summary, summary.forget_sets[0])
    rows = {row.trial.key: row for row in table.finalists}
    assert set(rows) == {"A/f/0", "A/f/1", "A/f/2", "B/f/0"}
    second = rows["A/f/1"]
    assert second.search == (0.5, 0.5) and second.mean == pytest.approx((0.3, 0.1))
    assert second.deviation == pytest.approx((0.02**0.5, 0)) and second.shift == pytest.approx((-0.2, -0.4))
    assert {key: row.stays for key, row in rows.items()} == {
        "A/f/0": True, "A/f/1": False, "A/f/2": True, "B/f/0": True
    }  # fmt: skip
    assert all((row.num_complete, row.num_ended, row.num_planned) == (2, 2, 2) for row in table.finalists)
    before, retain_model = table.baselines
    assert before.shift == pytest.approx((-0.02, 0)) and before.deviation is None and before.stays is None
    assert retain_model.shift == pytest.approx((0, 0.05)) and retain_model.num_planned == 1


def test_the_search_counts_none_of_it(tmp_path):
    plain, summary = (summary_of(tmp_path / name, runs) for name, runs in (("plain", []), ("again", confirmed())))
    for one, other in zip(plain.forget_sets, summary.forget_sets, strict=True):
        assert (one.front, one.baselines, one.counts) == (other.front, other.baselines, other.counts)
        for cell, same in zip(one.cells, other.cells, strict=True):
            assert replace(cell, volume=None) == replace(same, volume=None)
            assert (cell.hypervolume, cell.volume.alone) == (same.hypervolume, same.volume.alone)
    assert (plain.counts, plain.trials, plain.params) == (summary.counts, summary.trials, summary.params)
    assert in_words(plain) == "" and confirmation_table(plain, plain.forget_sets[0]) is None
    assert summary.seconds == pytest.approx(plain.seconds + 10 * 39.5)  # but it took time


def test_where_the_search_flattered_itself_in_words(tmp_path):
    assert in_words(summary_of(tmp_path, confirmed())) == (
        "With fresh seeds and on questions that the search never asked, model utility is 0.075 worse and forget "
        "efficacy is 0.100 worse than it said of the 4 finalists on average. Of the model before unlearning, which was "
        "not selected, model utility is 0.020 worse and forget efficacy is no different on these questions than on "
        "those. Beyond that, of the finalists that the search found best in each, model utility is 0.030 ± 0.635 worse "
        "and forget efficacy is 0.025 ± 0.318 worse: the difference in model utility and forget efficacy is within "
        "noise. 1 of 4 finalists leaves its method's front."
    )


def test_a_front_that_was_run_again_in_part_is_said_to_be(tmp_path):
    runs = [record for record in confirmed() if not record.key.startswith(("confirm/A/f/0", "confirm/A/f/1"))]
    summary = summary_of(tmp_path / "part", runs)
    assert [row.trial.key for row in confirmation_table(summary, summary.forget_sets[0]).finalists] == [
        "A/f/2",
        "B/f/0",
    ]
    assert in_words(summary).endswith(
        "Of 4 trials on the methods' fronts 2 were run again; what the others are worth is not known."
    )
    assert headline(summary).endswith("confirmed in part, on f B leads instead clearly.")
    page = write_report(summary, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 of 3</td>" in page and "1 of 1</td>" in page


def test_finalists_that_are_still_to_be_run_are_planned(tmp_path):
    begun = records(again("A", 0, 1, (0.2, 0.8)))[:-1]  # the sweep has not ended
    summary = summarize(load_sweep(write_records(tmp_path, begun)))
    rows = confirmation_table(summary, summary.forget_sets[0]).finalists
    assert {row.trial.key: row.num_ended for row in rows} == {"A/f/0": 1, "A/f/1": 0, "A/f/2": 0, "B/f/0": 0}
    said = in_words(summary)
    assert said.endswith("Confirmation is not finished: 1 of 8 runs have ended.") and "is not known" not in said


def test_weights_that_changed_before_the_confirmation_show(tmp_path):
    digests = {"before/f": "a" * 64, "confirm/before/f": "b" * 64}
    changed = [
        record.model_copy(update={"weights_sha256": digests.get(record.key)})
        if record.kind == "trial_finished"
        else record
        for record in records(confirmed())
    ]
    summary = summarize(load_sweep(write_records(tmp_path / "sweep", changed)))
    page = write_report(summary, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"before of f ({'a' * 12}); before of f ({'b' * 12})" in page


def test_easier_questions_do_not_hide_what_luck_was_in_the_search(tmp_path):
    """Scores that stay where they were while those of an unselected model rise by 0.2 have lost 0.2."""
    runs = again("before", None, None, (0.95, 0.3))
    for seed in (1, 2):
        for (method, number), (utility, efficacy) in SEARCH.items():
            if (method, number) in AGAIN:
                runs += again(method, number, seed, (utility + 0.001 * number, efficacy + 0.2))
    said = in_words(summary_of(tmp_path, runs))
    assert "Of the model before unlearning, which was not selected, model utility is 0.050 better" in said
    assert re.search(
        r"best in each, model utility is 0.049 ± 0.01\d worse .*: the search flattered itself in model util", said
    )


def test_what_the_search_left_behind_does_not_hide_that_its_best_were_lucky(tmp_path):
    """Both cells' best in utility fall by 0.1; A's others, of which nobody expected anything there, rise by more."""
    best = {("A", 2): -0.1, ("B", 0): -0.11, ("A", 0): 0.3, ("A", 1): 0.2}
    runs = [
        record
        for seed in (1, 2)
        for (method, number), change in best.items()
        for record in again(method, number, seed, (SEARCH[method, number][0] + change, SEARCH[method, number][1]))
    ]
    said = in_words(summary_of(tmp_path, runs))
    assert "model utility is 0.072 better" in said and "of the 4 finalists on average." in said
    assert "Of the finalists that the search found best in each, model utility is 0.105 ± 0.064 worse" in said
    assert "the search flattered itself in model utility" in said


def test_a_shift_beyond_its_error_is_called_one(tmp_path):
    lower = {"A": -0.1, "B": -0.12}
    runs = [
        record
        for seed in (1, 2)
        for (method, number), (utility, efficacy) in SEARCH.items()
        if (method, number) in AGAIN
        for record in again(method, number, seed, (utility + lower[method], efficacy - 0.1 * (number == 1)))
    ]
    said = in_words(summary_of(tmp_path, runs))
    assert "model utility is 0.105 worse and forget efficacy is 0.025 worse than it said of the 4 finalists" in said
    assert "best in each, model utility is 0.110 ± 0.127 worse and forget efficacy is no different: the diff" in said
    close = [
        record
        for seed in (1, 2)
        for (method, number), (utility, efficacy) in SEARCH.items()
        if (method, number) in AGAIN
        for record in again(method, number, seed, (utility - 0.1 - 0.001 * number, efficacy - 0.1 * (number == 1)))
    ]
    said = in_words(summary_of(tmp_path / "close", close))
    assert "best in each, model utility is 0.101 ± 0.013 worse and forget efficacy is no different" in said
    assert "the search flattered itself in model utility. " in said


def test_better_is_less_where_less_is_better(tmp_path):
    goals = (ObjectiveRecord(metric="loss", direction="minimize", worst=9),)
    cells = (CellRecord(name="A/f", method="A", forget_set="f", num_trials=1),)
    runs = [*again("A", 0, 1, (0.299,)), *again("A", 0, 2, (0.301,))]
    head = header(cells=cells, objectives=goals, config={"confirm": {"seeds": 2}})
    first = [head, started("A", "f", 0), finished("A/f/0", (0.2,))]
    said = in_words(summarize(load_sweep(write_records(tmp_path, [*first, *runs]))))
    assert "loss is 0.100 ± 0.013 worse than it said of the finalist: the search flattered itself in loss." in said
    better = [*again("A", 0, 1, (0.15,)), *again("A", 0, 2, (0.15,))]
    said = in_words(summarize(load_sweep(write_records(tmp_path / "better", [*first, *better]))))
    assert (
        "loss is 0.050 ± 0.000 better than it said of the finalist: the search did not clearly flatter itself." in said
    )
    once = again("A", 0, 1, (0.28,))
    said = in_words(summarize(load_sweep(write_records(tmp_path / "once", [*first, *once]))))
    assert (
        "loss is 0.080 worse than it said of the finalist: one run cannot tell whether the difference in loss" in said
    )


def test_what_did_not_complete_is_said_and_counts_for_nothing(tmp_path):
    runs = [record for record in confirmed() if not record.key.startswith("confirm/B")]
    runs += again("B", 0, 1, (0.0, 0.0), state=TrialState.DIVERGED, error="not finite") + again("B", 0, 2, ...)
    summary = summary_of(tmp_path, runs)
    row = next(row for row in confirmation_table(summary, summary.forget_sets[0]).finalists if row.trial.method == "B")
    assert (row.mean, row.deviation, row.shift, row.stays) == (None, None, None, None)
    assert (row.num_complete, row.num_ended, row.num_planned) == (0, 1, 2)
    said = in_words(summary)
    assert "of the 3 finalists on average" in said
    assert said.endswith("1 of 7 such runs did not complete. Confirmation is not finished: 7 of 8 runs have ended.")
    lost = again("B", 0, 1, (0, 0), state=TrialState.DIVERGED) + again("B", 0, 2, None, state=TrialState.FAILED)
    summary = summary_of(tmp_path / "lost", [*(r for r in runs if not r.key.startswith("confirm/B")), *lost])
    (row,) = (row for row in confirmation_table(summary, summary.forget_sets[0]).finalists if row.trial.method == "B")
    assert row.stays is None and row.mean is None
    said = "1 of 3 finalists leaves its method's front. 1 finalist is not confirmed: none of its runs is complete."
    assert said in in_words(summary)
    log = load_sweep(tmp_path / "lost")
    page = write_report(summarize(log), tmp_path / "report.html").read_text()
    section = page[page.index('<section id="confirmation">') :].partition("</section>")[0]
    assert section.count("<td>not confirmed</td>") == 1 and section.count("<td>leaves</td>") == 1
    console = Console(width=120, record=True)
    console.print(render_summary(summarize(log)))
    assert said in " ".join(console.export_text().split())


def test_a_finalist_that_no_run_is_planned_for_is_not_said_to_be_lost(tmp_path):
    runs = [record for record in confirmed() if not record.key.startswith("confirm/B")]
    folder = write_records(tmp_path, [records([])[0].model_copy(update={"config": {}}), *records(runs)[1:]])
    assert "not confirmed" not in in_words(summarize(load_sweep(folder)))


def test_page_and_terminal_show_both(tmp_path):
    folder = write_records(tmp_path, records(confirmed()))
    log = load_sweep(folder)
    page = write_report(summarize(log), folder / "report.html").read_text()
    section = page[page.index('<section id="confirmation">') :].partition("</section>")[0]
    for text in ("0.500", "0.300 ± 0.141", '<span class="difference loss">−0.200</span>', "leaves", "2 of 2", "A/f/1"):
        assert text in section, text
    assert section.count("stays") == 3 and '<a href="#confirmation">' in page
    assert "is within noise" in section
    assert "did not clearly flatter itself" in page.partition("<nav>")[0]
    console = Console(width=120, record=True)
    console.print(render_summary(summarize(log)))
    assert "1 of 4 finalists leaves its method's front." in " ".join(console.export_text().split())


def test_a_sweep_without_it_shows_nothing_of_it(tmp_path):
    folder = write_sweep(tmp_path)
    page = write_report(summarize(load_sweep(folder)), folder / "report.html").read_text()
    assert "onfirmation" not in page and "flattered" not in page
    assert len(summarize(load_sweep(folder)).trials) == 5 * len(METHODS) * len(FORGET_SETS)


def test_confirmed_hypervolumes_by_hand(tmp_path):
    """Axes: utility from 0 to 0.9, the retain model's, efficacy from 0.1, before unlearning, to 0.85."""
    summary = summary_of(tmp_path, confirmed())
    (group,) = summary.forget_sets
    found = confirmed_volumes(summary, group)
    best, other = found.methods
    assert found.measure.is_scaled and found.measure.box.one == (0.9, 0.85)
    assert (best.method, best.num_finalists, other.method, other.num_finalists) == ("B", 1, "A", 3)
    assert (best.num_on_front, other.num_on_front) == (1, 3)
    whole = 0.9 * 0.75
    assert best.seeds == pytest.approx((0.5 * 0.5 / whole, 0.7 * 0.5 / whole))
    first = 0.2 * 0.7 + 0.6 * 0.1  # (0.2, 0.8) and (0.8, 0.2); (0.2, 0.1) adds nothing
    second = 0.2 * 0.8 + 0.6 * 0.2
    assert other.seeds == pytest.approx((first / whole, second / whole))
    page = write_report(summary, tmp_path / "report.html").read_text()
    assert (
        "Confirmed, B leads within the spread of seeds (" in page
        and "to 0.850, the retain" in page
        and "; A has 0.356, place 2 of 2." in page
    )
    outstanding = summary_of(tmp_path / "part", confirmed()[:-2])
    assert [one.method for one in confirmed_volumes(outstanding, outstanding.forget_sets[0]).methods] == ["A"]


def test_the_best_that_keeps_utility_is_said_to_keep_it_or_not(tmp_path):
    """Of 0.9 before unlearning, and of 0.88 on other questions, 95% are 0.855 and 0.836."""
    search = [
        started("C", "f", 0),
        finished("C/f/0", (0.86, 0.4)),
        started("D", "f", 0),
        finished("D/f/0", (0.87, 0.3)),
    ]
    runs = [*again("C", 0, 1, (0.84, 0.4)), *again("C", 0, 2, (0.84, 0.4))]
    runs += [*again("D", 0, 1, (0.83, 0.3)), *again("D", 0, 2, (0.84, 0.3))]
    summary = summary_of(tmp_path, [*search, *confirmed(), *runs])
    (group,) = summary.forget_sets
    found = best_kept(group, summary.objectives)
    keeps = kept_again(found, confirmation_table(summary, group), summary.objectives)
    assert keeps == {"C/f/0": True, "D/f/0": False, "A/f/2": False}  # A/f/2 has 0.8 on other questions
    page = write_report(summary, tmp_path / "report.html").read_text()
    table = page[page.index("Best that keeps utility on f") :].partition("</table>")[0]
    assert table.count("<td>keeps</td>") == 1 and table.count("<td>does not keep</td>") == 2


def test_a_leader_is_not_overturned_before_its_runs_have_ended(tmp_path):
    third = [
        started("C", "f", 0),
        finished("C/f/0", (0.5, 0.3)),
        *again("C", 0, 1, (0.5, 0.3)),
        *again("C", 0, 2, (0.5, 0.3)),
    ]
    said = headline(summary_of(tmp_path / "whole", [*third, *confirmed()]))
    assert "A leads on f" in said and "confirmed, on f B leads instead within the spread of seeds" in said
    outstanding = [record for record in confirmed() if record.key != "confirm/A/f/2/s2"]
    part = summary_of(tmp_path / "part", [*third, *outstanding])
    assert [one.method for one in confirmed_volumes(part, part.forget_sets[0]).methods] == ["B", "C"]
    assert "instead" not in headline(part)


def test_a_seed_whose_runs_came_to_nothing_attains_nothing(tmp_path):
    runs = [record for record in confirmed() if not record.key.startswith("confirm/B")]
    runs += again("B", 0, 1, (0.6, 0.6)) + again("B", 0, 2, (0.0, 0.0), state=TrialState.DIVERGED, error="not finite")
    summary = summary_of(tmp_path, runs)
    (group,) = summary.forget_sets
    rows = [row for row in confirmation_table(summary, group).finalists if row.trial.method == "B"]
    assert [points.tolist() for points in by_seed(group, rows)] == [[[0.6, 0.6]], []]
    (mine,) = (one for one in confirmed_volumes(summary, group).methods if one.method == "B")
    assert mine.seeds == pytest.approx((0.6 * 0.5 / (0.9 * 0.75), 0))
    page = write_report(summary, tmp_path / "report.html").read_text()
    assert '<span class="key">confirm/B/f/0/s2</span>, diverged: not finite' in page


def test_runs_of_what_is_no_finalist_any_more_are_counted(tmp_path):
    runs = [*confirmed(), *again("A", 3, 1, (0.1, 0.1)), *again("A", 3, 2, (0.1, 0.1))]
    assert "Left out: 2 runs of trials that are no finalists any more." in in_words(summary_of(tmp_path, runs))


def test_finalists_that_a_cell_did_not_send_are_not_missed(tmp_path):
    runs = [record for record in confirmed() if "A/f/0" not in record.key and "A/f/2" not in record.key]
    config = {"confirm": {"seeds": SEEDS, "finalists_per_cell": 1}}
    changed = [r.model_copy(update={"config": config}) if isinstance(r, SweepStarted) else r for r in records(runs)]
    summary = summarize(load_sweep(write_records(tmp_path, changed)))
    table = confirmation_table(summary, summary.forget_sets[0])
    assert {row.trial.key for row in table.finalists} == {"A/f/1", "B/f/0"}
    assert "not finished" not in in_words(summary)
