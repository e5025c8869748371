"""What the page says first: three sentences, whatever the journal holds."""

import pytest
from synthetic_sweep import cell, finished, header, started, write_records, write_sweep
from test_confirmation_table import SEARCH, confirmed, summary_of
from test_sweep_summary import same_every_time, sweep_of

from orchestrator.analysis.headline import finding, headline
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.journal import SweepEnded
from orchestrator.tracking.sweep_log import load_sweep


def finding_of(summary):
    return finding(summary, summary.forget_sets[0])


def sentences(text):
    return text.split(". ")


APART = [*same_every_time("A", (0.5, 0.5)), *same_every_time("B", (0.4, 0.4))]
LUCKY = [*APART[4:], *(("C", number, (0.1, 0.1), {}) for number in range(3)), ("C", 3, (0.5, 0.5), {})]


def test_who_leads_with_what_and_what_to_be_careful_about(log):
    summary = summarize(log)
    leads, knee, careful = sentences(headline(summary))
    first, best = summary.forget_sets[0].ranking[0], summary.forget_sets[0].knee
    assert leads.startswith("By hypervolume ") and f"{first.method} leads on forget01" in leads
    assert f"On forget01 the knee of all methods, {best.method}'s trial {best.number}, reaches model utility" in knee
    assert f"{best.objectives[0]:.3f}" in knee and "before unlearning" in knee
    assert careful.startswith("Each cell has 4 to 5 complete trials, so a lead may be luck")


def test_how_surely(tmp_path):
    def said(name, trials):
        summary = sweep_of(tmp_path / name, trials)
        return sentences(headline(summary))[0], finding_of(summary)

    leads, more = said("apart", APART)
    assert leads == "By hypervolume A leads on f, clear of what luck does to any other method"
    assert "A leads by hypervolume (0.250 against 0.160 for B); with 2 random trials of each method it has" in more
    assert "which overlaps with no other method" in more
    leads, more = said("lucky", LUCKY)
    assert leads.endswith("but not clear of what luck does to the others, so another search may end otherwise")
    assert "which overlaps with B, so another search may end otherwise" in more
    leads, more = said("few", APART[:7])
    assert leads.endswith("with too few trials to tell merit from luck")
    assert "with too few trials to tell merit from luck" in more


def test_leads_on_several_forget_sets(tmp_path):
    names, places = ("f", "g", "h"), {"A": (0.5, 0.5), "B": (0.4, 0.4)}
    records = [header(cells=tuple(cell(method, name) for name in names for method in places))]
    for name in names:
        for method, place in places.items():
            better = place if name != "h" else (place[0] * (2 if method == "B" else 0.5), place[1])
            for number in range(4):
                start = started(method, name, number)
                records += [start, finished(start.key, better)]
    records.append(SweepEnded(state="done"))
    leads, *_ = sentences(headline(summarize(load_sweep(write_records(tmp_path, records)))))
    assert leads == "By hypervolume A leads on f and g, B on h, clear of what luck does to any other method"


def test_the_leader_is_not_recommended_where_each_of_its_trials_is_surpassed(tmp_path):
    """B alone has the most, over two trials, but a trial of A and one of C are better than each of them."""
    trials = [
        ("B", 0, (0.6, 0.8), {}),
        ("B", 1, (0.8, 0.6), {}),
        ("A", 0, (0.61, 0.81), {}),
        ("C", 0, (0.81, 0.61), {}),
    ]
    summary = sweep_of(tmp_path, trials)
    leads, knee, *_ = sentences(headline(summary))
    best = summary.forget_sets[0].knee
    assert leads.startswith("By hypervolume B leads on f") and best.method in "AC"
    assert knee.startswith(f"On f the knee of all methods, {best.method}'s trial 0, reaches")
    assert "None of B's trials is on the front over all methods, whose knee is " in finding_of(summary)
    assert "None of" not in finding_of(sweep_of(tmp_path / "without", trials[:2]))


def test_an_answer_whose_weights_are_gone_says_so(tmp_path):
    places, kept = {"A": (0.7, 0.7), "B": (0.5, 0.5)}, ("A", "B")
    for name in (None, *kept):
        records = [header(cells=tuple(cell(method, "f") for method in places))]
        for method, place in places.items():
            start = started(method, "f", 0)
            records += [start, finished(start.key, place, checkpoint="w" if method == name else None)]
        _, knee, *_ = sentences(headline(summarize(load_sweep(write_records(tmp_path / str(name), records)))))
        assert "A's trial 0, reaches" in knee and knee.endswith("; its weights were not kept") == (name == "B")


def test_each_forget_set_has_its_clause(tmp_path):
    places = {"f": {"A": (0.5, 0.5)}, "g": {"A": (0.5, 0.5), "B": (0.5, 0.5)}, "h": {"A": (0, 0.5), "B": (0.5, 0)},
              "i": {"B": (0.3, 0.3)}, "j": {"A": (0.5, 0.5), "B": (0.4, 0.4)}}  # fmt: skip
    records = [header(cells=tuple(cell(method, name) for name, group in places.items() for method in group))]
    for name, group in places.items():
        for method, place in group.items():
            start = started(method, name, 0)
            records += [start, finished(start.key, place)]
    leads, *_ = sentences(headline(summarize(load_sweep(write_records(tmp_path, records)))))
    assert leads == (
        "By hypervolume A leads on j, with too few trials to tell merit from luck; A and B are level on g; no method "
        "has a hypervolume above 0 on h; A is the only method with a complete trial on f; B is the only method with a "
        "complete trial on i"
    )


def test_a_lone_method(tmp_path):
    alone = sweep_of(tmp_path, [("A", 0, (0.5, 0.5), {}), ("B", 0, None, None)])
    assert headline(alone).startswith(
        "A is the only method with a complete trial on f. On f the knee of all methods, A's trial 0, "
    )
    assert "1 complete and 1 unfinished" in headline(alone)
    assert finding_of(alone).startswith("A is the only method with a complete trial. Its knee, trial 0, reaches")


def test_a_sweep_without_results(tmp_path):
    summary = summarize(load_sweep(write_sweep(tmp_path, last_record=1)))
    assert headline(summary) == "There is no answer yet: of 40 planned trials, none started."
    assert finding_of(summary) == "" and summary.state == "running or cut off"


def test_what_the_confirmation_comes_to(tmp_path):
    whole, part = confirmed(), confirmed()[:-2]
    assert headline(summary_of(tmp_path / "whole", whole)).endswith(
        "; by fresh seeds and other questions the search did not clearly flatter itself; "
        "confirmed, on f B leads instead within the spread of seeds."
    )
    assert headline(summary_of(tmp_path / "part", part)).endswith(
        "the search flattered itself in model utility so far."
    )
    low = [r for r in whole if r.kind != "trial_finished" or "before" in r.key or "retain" in r.key]
    for record in (r for r in whole if r not in low):
        _, method, _, number, _ = record.key.split("/")
        low.append(record.model_copy(update={"objectives": (SEARCH[method, int(number)][0] - 0.3, 0.1)}))
    assert "the search flattered itself in model utility." in headline(summary_of(tmp_path / "low", low))


def test_equal_hypervolumes_are_no_lead(tmp_path):
    both = sweep_of(tmp_path, [("A", 0, (0.5, 0.5), {}), ("B", 0, (0.5, 0.5), {})])
    assert headline(both).startswith(
        "By hypervolume A and B are level on f. On f the knee of all methods, A's trial 0, "
    )
    assert finding_of(both).startswith("A and B are level by hypervolume (")
    assert "A's knee, trial 0, reaches" in finding_of(both)
    assert "fresh seeds" not in headline(summary_of(tmp_path / "none", []))


@pytest.mark.parametrize("last_record", range(1, 40))
def test_a_journal_cut_off_anywhere_can_be_told(tmp_path, last_record):
    summary = summarize(load_sweep(write_sweep(tmp_path, last_record=last_record)))
    assert 1 <= len(sentences(headline(summary))) <= 3
    assert all(isinstance(finding(summary, group), str) for group in summary.forget_sets)
