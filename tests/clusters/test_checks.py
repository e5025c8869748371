"""Shipped cluster files are in order, and mistakes that are planted into copies are found and named."""

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.tuning.clusters import batch, launcher, pods
from orchestrator.tuning.clusters.checks import no_open_address, no_secret, one_image, problems
from orchestrator.tuning.clusters.files import read_cluster_file
from orchestrator.tuning.clusters.machines import REGIONS
from tests.clusters.conftest import NAMES

PLANTED = yaml.safe_load(Path(__file__).with_name("planted.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_are_in_order(name, problems_of):
    assert problems_of(name) == []


@pytest.mark.parametrize("row", PLANTED, ids=lambda row: f"{row['file']}-{row['said'][:40]}")
def test_a_planted_mistake_is_found_and_named(row, problems_of):
    said = row["said"]
    found = problems_of(row["file"], (row["written"], row["instead"]))
    found = [re.sub(r"line \d+", "line N", line) for line in found]
    if said.startswith("ray-schema"):
        assert any(line.startswith(said) and len(line) > len(said) for line in found), found
    else:
        assert said in found


def test_every_check_has_a_planted_mistake():
    checks = (no_open_address, no_secret, one_image, *launcher.CHECKS, *pods.CHECKS, *batch.CHECKS)
    assert {check.__name__.replace("_", "-") for check in checks} == {row["said"].partition(":")[0] for row in PLANTED}
    assert len(PLANTED) >= 20


@pytest.mark.parametrize(
    ("name", "machine", "other", "offered", "instead"),
    [
        ("aws-g5.yaml", "g5.12xlarge", "g6.12xlarge", "type:A10G", "type:L4"),
        (
            "aws-p4d.yaml",
            "p4d.24xlarge",
            "p5.48xlarge",
            '96, GPU: 8, "accelerator_type:A',
            '192, GPU: 8, "accelerator_type:H',
        ),
        ("gcp-a2.yaml", "a2-highgpu-4g", "a2-highgpu-1g", "{CPU: 48, GPU: 4", "{CPU: 12, GPU: 1"),
        ("azure-nd.yaml", "Standard_ND96asr_v4", "Standard_ND96amsr_A100_v4", "GPU: 8", "GPU: 8"),
        ("azure-nd.yaml", "Standard_ND96asr_v4", "Standard_ND96isr_H100_v5", "type:A100", "type:H100"),
    ],
)
def test_the_other_machine_that_a_file_speaks_of_is_in_order_too(name, machine, other, offered, instead, problems_of):
    assert problems_of(name, (machine, other), (offered, instead)) == []


def test_regions_are_ones_that_aws_has():
    boto3 = pytest.importorskip("boto3", reason="no boto3; the image has it")
    assert set(boto3.Session().get_available_regions("ec2")) >= REGIONS["aws"]


@pytest.mark.parametrize(
    "text", ["provider: {type: aws}\n", "kind: RayCluster\n", "kind: RayJob\nspec: {}\n", "#SBATCH\n"]
)
def test_no_check_breaks_on_a_file_with_nothing_in_it(text, tmp_path):
    (tmp_path / "empty").write_text(text)
    assert len(problems(read_cluster_file(tmp_path / "empty"))) > 5
