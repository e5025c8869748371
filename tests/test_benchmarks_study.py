"""The second study's numbers are those of its journal, which is kept beside them."""

import json
import tarfile

from benchmarks.study import page, record
from benchmarks.sweeps import RESULTS


def test_the_kept_journal_gives_the_recorded_numbers(tmp_path):
    with tarfile.open(RESULTS / "study_2.tar.xz") as kept:
        kept.extractall(tmp_path, filter="data")
    written = json.loads((RESULTS / "study_2.json").read_text())
    found = record(tmp_path / "study") | {"machine": written["machine"]}
    assert json.loads(json.dumps(found)) == written
    assert page(found, "study_2") == (RESULTS / "study_2.md").read_text()
