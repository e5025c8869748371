"""The second study's numbers are those of its journal, which is kept beside them; a later one has its sets in order."""

import json
import tarfile

from benchmarks.study import make_retain_models, page, record
from benchmarks.sweeps import RESULTS


def test_the_kept_journal_gives_the_recorded_numbers(tmp_path):
    with tarfile.open(RESULTS / "study_2.tar.xz") as kept:
        kept.extractall(tmp_path, filter="data")
    written = json.loads((RESULTS / "study_2.json").read_text())
    found = record(tmp_path / "study") | {"machine": written["machine"]}
    assert json.loads(json.dumps(found)) == written
    assert page(found, "study_2") == (RESULTS / "study_2.md").read_text()


def test_forget_sets_come_from_the_smallest_to_the_largest(tmp_path):
    for size in (10, 20):
        (tmp_path / f"retain_rows{size}").mkdir()  # made by an earlier call
    found = make_retain_models(tmp_path / "models", [], tmp_path)
    assert list(found) == ["rows10", "rows20", "rows40"]
    assert found["rows20"] == tmp_path / "retain_rows20"
    assert found["rows40"] == tmp_path / "models" / "tofu_tiny_retain"
