"""The documentation is true where a program can tell."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

from methods.config import VALID_METHODS
from metrics.aggregate import SET_METRICS
from metrics.suites import metric_directions
from orchestrator.config import SweepConfig
from orchestrator.load_config import build_config, shipped_sweeps
from orchestrator.scenario_config import AuthorsScenario, RealWorldScenario, TofuScenario

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "clusters" / "README.md", *(ROOT / "docs").glob("*.md")])
MODULE = re.compile(r"python3? -m ([\w.]+)(?![\w.…])")  # not the beginning of a name that ends in dots
RECORDS = [path for path in sorted((ROOT / "benchmarks").rglob("*")) if path.suffix in (".md", ".json")]


@pytest.fixture(scope="module")
def make_configuration():
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_what_the_models_say(make_configuration):
    written = make_configuration.PAGE.read_text(encoding="utf-8")
    assert written == make_configuration.page(), "out of date: run python docs/make_configuration.py"


def test_help_of_the_configuration_page_writes_nothing(make_configuration, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(make_configuration, "PAGE", tmp_path / "configuration.md")
    with pytest.raises(SystemExit, match="^0$"):
        make_configuration.main(["--help"])
    assert "usage" in capsys.readouterr().out
    assert not make_configuration.PAGE.exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert not missing


def test_rooms_are_the_modules_that_exist():
    """A folder of Lethe that is listed with modules is listed with all of them, and with no other."""
    (listed,) = re.findall(r"## Rooms\n\n```\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    path, rooms = [], {}
    for indent, name in re.findall(r"^((?:  )*)(\S+\.py|\S+/)(?: |$)", listed, re.MULTILINE):
        path[len(indent) // 2 :] = [name.rstrip("/")]
        if name.endswith(".py"):
            rooms.setdefault("/".join(path[:-1]), []).append(name)
    folders = ("", "/scenarios", "/tuning", "/tuning/clusters", "/worker", "/tracking")
    assert set(rooms) == {f"orchestrator{folder}" for folder in folders}
    for folder, names in rooms.items():
        there = {file.name for file in (ROOT / folder).glob("*.py")} - {"__init__.py"}
        assert sorted(names) == sorted(there), folder


def test_commands_name_modules_that_exist():
    pages = [*PAGES, *RECORDS, *ROOT.glob("*.md")]
    named = {(page, name) for page in pages for name in MODULE.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 30
    missing = [(str(page.relative_to(ROOT)), name) for page, name in sorted(named) if not is_module(name)]
    assert not missing


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "clusters/README.md"])
def test_commands_name_targets_of_the_makefile(page):
    named = re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", (ROOT / page).read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert set(named) <= set(targets)


def is_module(name):
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of the folder that it would be in
        return False
    return spec is not None and spec.origin is not None  # a folder alone is no program


def test_examples_of_comparing_methods_give_what_the_page_says():
    found = doctest.testfile(str(ROOT / "docs" / "pareto.md"), module_relative=False)
    assert (found.failed, found.attempted) == (0, 8)


def test_readme_names_every_method_and_shipped_sweep():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    losses = {part for name in VALID_METHODS for part in name.split("+")}
    missing = [name for name in (*losses, *shipped_sweeps()) if f"`{name}`" not in text]
    assert not missing


def test_readme_tables_name_the_metrics_that_can_be_objectives_and_no_others():
    _, metrics_on = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Metrics\n")
    tables = re.findall(r"(?:^\|.*\n)+", metrics_on.partition("\n## ")[0], re.MULTILINE)
    of_a_set, over_sets, of_a_chain = (set(re.findall(r"`(.+?)`", " ".join(first_cells(table)))) for table in tables)
    assert of_a_set == set(SET_METRICS)
    kinds = {"forget": "forget", "retain": "retain", "facts": "facts"}
    alone, chain = ({n for n in metric_directions(kinds, chain=c) if "/" not in n} for c in (False, True))
    assert over_sets == alone
    assert of_a_chain == chain - alone


def first_cells(table):
    return [row.split("|")[1] for row in table.splitlines()]


def test_readme_names_every_evaluation_set():
    _, metrics_on = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Metrics\n")
    scenarios = (AuthorsScenario(), TofuScenario(name="tofu"), RealWorldScenario(name="real_world", source="people"))
    sets = {name for scenario in scenarios for name in scenario.set_kinds}
    assert [name for name in sets if f"`{name}`" not in metrics_on.partition("|")[0]] == []


def test_readme_sweep_is_a_valid_configuration(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "sweep.yaml").write_text(block)
    assert build_config(SweepConfig, tmp_path / "sweep.yaml", []).methods
