"""The page: it holds what it must, nothing of the journal becomes markup, and nothing is asked of the network."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs
from rich.console import Console
from synthetic_sweep import METHODS, OBJECTIVES, cell, examples, finished, header, started, write_records, write_sweep

from orchestrator.analysis.build import write_report
from orchestrator.analysis.plots import figures
from orchestrator.analysis.summary import summarize
from orchestrator.analysis.terminal import render_summary
from orchestrator.report import main
from orchestrator.tracking.journal import ObjectiveRecord, SweepEnded, TrialState, read_records
from orchestrator.tracking.sweep_log import load_sweep

HOSTILE = "<script>alert(1)</script><a href='http://evil.example'>&amp;</a>"


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.scripts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        (self.scripts if self.tags[-1:] == ["script"] and data.strip() else self.texts).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page_of(log, folder):
    return write_report(summarize(log), folder / "report.html").read_text(encoding="utf-8")


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


def test_page_holds_the_findings(log, tmp_path):
    text = page_of(log, tmp_path)
    for expected in (
        "tofu-small", "Best settings", "Settings", "Answers before and after", "Trials", "How it was made", "masked",
        "python -m orchestrator.sweep tofu_small", "all-MiniLM-L6-v2", "torch 2.13.0",
        "I don't know the answer to that.", "36 complete, 2 diverged, 2 failed", "models/tofu_tiny", *METHODS,
    ):  # fmt: skip
        assert expected in Page(text).text, expected
    trials = data_of(text)["trials"]["rows"]
    assert [row[0] for row in trials] == [trial.key for trial in summarize(log).trials]
    assert sum("MemoryError: rank 1 peaked" in (row[8] or "") for row in trials) == 2


def test_provenance_names_every_sitting_and_the_rows(tmp_path):
    first, *rest = read_records(next(write_sweep(tmp_path / "sweep").glob("journal")))
    later = first.model_copy(
        update={"versions": first.versions | {"torch": "2.14.0"}, "command": "resume", "resumed": True}
    )
    digests = {"before/forget01": "a" * 64, "before/forget05": "a" * 64, "retain_model/forget05": "b" * 64}
    rest = [
        record.model_copy(update={"weights_sha256": digests.get(record.key)})
        if record.kind == "trial_finished"
        else record
        for record in rest
    ]
    page = page_of(load_sweep(write_records(tmp_path / "twice", [first, *rest, later])), tmp_path)
    text = Page(page).text
    assert "torch 2.13.0, then 2.14.0" in text and "ray 2.60.1" in text and first.command in text
    rows = first.data["forget05"]
    assert f"forget05 of {rows.source}: forget {rows.forget.num_rows} ({rows.forget.sha256[:12]})" in text
    assert f"before of forget01, forget05 ({'a' * 12}); retain model of forget05 ({'b' * 12})" in text


def test_page_says_what_settings_do(tmp_path):
    text = Page(page_of(load_sweep(write_sweep(tmp_path / "many", num_trials=30)), tmp_path)).text
    assert "GA+GD: forget_weight lowers model utility (−0.980), forget_weight raises forget efficacy" in text
    some = Page(page_of(load_sweep(write_sweep(tmp_path / "some", num_trials=10)), tmp_path)).text
    assert "GA+GD: 9 complete trials, too few to say" in some and "In numbers" in some
    few = Page(page_of(load_sweep(write_sweep(tmp_path / "few", num_trials=9)), tmp_path)).text
    assert "No method has 10 complete trials here: too few to say in numbers." in few and "In numbers" not in few


def test_page_says_how_hypervolumes_are_measured_and_what_they_owe_to_luck(log, tmp_path):
    text = Page(page_of(log, tmp_path)).text
    group, _ = summarize(log).forget_sets
    low, high = group.ranking[0].volume.interval
    assert "hypervolume alone" in text
    assert (
        f"{group.ranking[0].hypervolume:.3f} {low:.3f} to {high:.3f} with 2 {group.ranking[0].volume.alone:.3f}" in text
    )
    assert text.count("Hypervolume here is measured on scaled axes") == 2
    assert "Best forget efficacy that keeps model utility of at least 0.598: 95% of that before unlearning" in text
    assert "ME+GD 0.618 0.475" in text and "GA+GD no trial keeps that much" in text
    assert "No trial of any method keeps that much" in text  # on forget05


def test_page_asks_nothing_of_the_network(log, tmp_path):
    text = page_of(log, tmp_path)
    assert text.count(get_plotlyjs()) == 1
    page = Page(text.replace(get_plotlyjs(), ""))
    sources = [value for name, value in page.attributes if name in ("src", "href", "action", "srcset", "data")]
    assert sources
    assert all(value.startswith(("#", "data:,")) for value in sources)
    assert "http" not in text.replace(get_plotlyjs(), "").replace("http-equiv", "")
    assert "default-src 'none'" in text


def hostile_log(folder):
    name = f"{HOSTILE}{{{{ 7 * 7 }}}}"
    start = started(name, HOSTILE, 0, {f"a.{HOSTILE}": HOSTILE})
    said = tuple(replace(e, output=HOSTILE, question=HOSTILE, set_name=HOSTILE) for e in examples({}))
    broken = started(name, HOSTILE, 1)
    objectives = (OBJECTIVES[0].model_copy(update={"metric": HOSTILE}), OBJECTIVES[1])
    records = [
        header(name=HOSTILE, command=HOSTILE, cells=(cell(name, HOSTILE),), objectives=objectives,
               versions={HOSTILE: HOSTILE}, config={"model": HOSTILE}),
        start, finished(start.key, (0.5, 0.5), examples=said, metrics={HOSTILE: 1.0}, judges={HOSTILE: HOSTILE}),
        broken, finished(broken.key, state=TrialState.FAILED, error=f"{HOSTILE}\n{HOSTILE}"),
    ]  # fmt: skip
    return load_sweep(write_records(folder, records))


def test_hostile_text_shows_as_text(log, tmp_path):
    honest = Page(page_of(log, tmp_path / "honest"))
    text = page_of(hostile_log(tmp_path), tmp_path)
    page = Page(text)
    assert page.tags.count("script") == honest.tags.count("script")
    assert HOSTILE.split("<")[1] not in text.replace("&lt;script&gt;alert(1)", "")
    assert HOSTILE in "".join(page.texts)
    assert "{{ 7 * 7 }}" in "".join(page.texts)
    assert "evil.example" not in str([value for name, value in page.attributes if name in ("href", "src")])


def test_what_changed_in_an_answer_is_marked(tmp_path):
    says = {"forget": "no no no", "retain": "Jaime Vasquez was born in <b>Lima</b>, Chile."}
    records = [header(cells=(cell("A", "f"),)), started("before", "f", None), finished("before/f", (0.6, 0.2))]
    records += [started("A", "f", 0), finished("A/f/0", (0.5, 0.5), says=says)]
    text = page_of(load_sweep(write_records(tmp_path, records)), tmp_path)
    assert "<dd>Jaime Vasquez was born in<del> Santiago,</del><ins> &lt;b&gt;Lima&lt;/b&gt;,</ins> Chile.</dd>" in text
    assert text.count("<dd>no no no</dd>") == 3


def test_hostile_text_shows_as_text_in_hover_labels(tmp_path):
    (figure,) = data_of(page_of(hostile_log(tmp_path), tmp_path))["fronts"]
    for trace in figure["data"]:
        for hover in trace.get("hovertext", []):
            assert "&lt;script&gt;" in hover
            assert set(re.findall(r"<.*?>", hover)) <= {"<b>", "</b>", "<br>"}
    assert "<" not in figure["layout"]["xaxis"]["title"]["text"]


def test_scatter_shows_complete_trials_and_baselines(log):
    figure, _ = figures(summarize(log))
    owners = [trace["meta"]["owner"] for trace in figure["data"] for _ in trace["x"] if trace["meta"]["owner"]]
    assert len(owners) == 18 + 2
    assert owners.count("GA+GD") == 4
    line = figure["data"][0]
    assert line["line"]["shape"] == "vh"
    assert line["x"] == sorted(line["x"])
    assert line["y"] == sorted(line["y"], reverse=True)


@pytest.mark.parametrize("number_of_objectives", [1, 3])
def test_other_numbers_of_objectives(tmp_path, number_of_objectives):
    third = ObjectiveRecord(metric="seconds", direction="minimize", worst=100.0)
    objectives = (*OBJECTIVES, third)[:number_of_objectives]
    records = [header(objectives=objectives)]
    for number in range(3):
        start = started("ME+GD", "forget01", number)
        records += [start, finished(start.key, (0.5, 0.1 * number, 3.0)[:number_of_objectives], metrics={})]
    records += [
        started("before", "forget01", None),
        finished("before/forget01", (0.6, 0.1, 1.0)[:number_of_objectives]),
    ]
    text = Page(page_of(load_sweep(write_records(tmp_path, records)), tmp_path)).text
    expected = {1: "drawn over the trial number", 3: "first two of 3 objectives"}
    assert expected[number_of_objectives] in text


@pytest.mark.parametrize("last_record", [1, 2, 4, 8, 20])
def test_page_of_a_running_sweep(tmp_path, last_record):
    text = page_of(load_sweep(write_sweep(tmp_path, last_record=last_record)), tmp_path)
    assert "running or cut off" in text
    assert ("plotly.js v" in text) == (last_record > 7)  # 5 records until the first trial, 3 for each trial


def test_terminal_table_fits_80_columns(log):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_summary(summarize(log)))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    knee = summarize(log).forget_sets[0].ranking[0].knee
    named = f"{knee.method} {knee.key.rpartition('/')[2]}: "
    for expected in (*METHODS, named, f"{knee.objectives[0]:.3f}", "4 (1 failed)", "4 (1 diverged)", "retain model"):
        assert expected in text
    assert "…" not in text


def test_door_writes_the_page_and_prints_its_path(sweep_dir, tmp_path, capsys):
    assert main([str(sweep_dir)]) == 0
    assert capsys.readouterr().out == f"{sweep_dir / 'report.html'}\n"
    assert main([str(sweep_dir), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_text() == (sweep_dir / "report.html").read_text()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_door_refuses_a_bad_folder_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no journal in")
    assert captured.err.count("\n") == 1


def test_door_that_cannot_write_says_where_and_leaves_nothing(sweep_dir, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    assert main([str(sweep_dir), "--out", str(tmp_path / "taken")]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --out: {tmp_path / 'taken'} cannot be written (Is a directory); name another FILE\n"
    assert not list(tmp_path.glob(".taken*"))


def test_report_imports_neither_torch_nor_ray():
    code = (
        "import sys, orchestrator.report, orchestrator.analysis.terminal as _; print({'torch', 'ray'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_gpu_time_is_shown_where_there_was_any(tmp_path):
    assert (
        "GPU time" not in page_of(load_sweep(write_sweep(tmp_path / "cpu")), tmp_path).split("How it was made</h2>")[0]
    )
    start = started("ME+GD", "forget01", 0)
    held = start.model_copy(update={"gpus": 8.0, "time": start.time + 1800})  # until an hour after the header
    records = [header(), held, finished(start.key, (0.5, 0.5)), SweepEnded(state="budget spent", time=held.time + 1900)]
    page = Page(page_of(load_sweep(write_records(tmp_path / "gpu", records)), tmp_path))
    # A column for each forget set, costs, cells, all, one of trials, how it was made.
    assert page.text.count("GPU time") == 7
    assert "4.0 h" in page.text and "the sweep is not finished (budget spent)" in page.text
