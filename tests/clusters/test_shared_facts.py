"""What several files say is the same in all: versions, the image, the token; and the README knows every file."""

import json
import re
import tomllib

import pytest
import yaml
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

from orchestrator.tuning.clusters.checks import image
from tests.clusters.conftest import CLUSTERS, LAUNCHER, NAMES, ROOT

LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
DOCKERFILE = (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")
README = (CLUSTERS / "README.md").read_text(encoding="utf-8")
ALL = sorted(path for path in CLUSTERS.iterdir() if path.is_file())


def commands(text):
    """Blocks of commands in a Markdown text, with continued lines joined."""
    return "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")


def test_the_image_has_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image() == f"ghcr.io/lethe-unlearning/lethe:{version}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_name_one_image_and_no_registry_of_packages(path):
    text = path.read_text(encoding="utf-8")
    found = set(re.findall(r"ghcr\.io/[\w./-]+:[\w.]*\w", text))
    assert found <= {image()}
    assert found or path.name == "kuberay-storage.yaml"
    assert not re.search(r"pypi|pythonhosted|index-url|rayproject/|:latest\b", text)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_lines_fit(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []  # but for rows of tables


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_ray_is_that_of_the_lock_file(name):
    assert re.findall(r'rayVersion: "(.*)"', (CLUSTERS / name).read_text()) == [LOCK["ray"]]


def test_the_job_starts_the_cluster_of_the_other_file():
    cluster = yaml.safe_load((CLUSTERS / "kuberay-cluster.yaml").read_text())["spec"]
    assert yaml.safe_load((CLUSTERS / "kuberay-job.yaml").read_text())["spec"]["rayClusterSpec"] == cluster


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_token_goes_to_every_node_and_ray_asks_for_it(name):
    document = yaml.safe_load((CLUSTERS / name).read_text())
    assert document["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in document["docker"]["run_options"]


def test_the_image_is_built_from_the_lock_file_by_a_user_without_rights():
    lines = DOCKERFILE.splitlines()
    assert "RUN pip install -r requirements.lock" in lines
    assert "RUN pip install --no-deps --no-build-isolation ." in lines
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM python:3.11.14-slim-bookworm"]
    assert [line for line in lines if line.startswith("USER ")] == ["USER lethe"]
    assert lines.index("USER lethe") > max(index for index, line in enumerate(lines) if line.startswith("RUN "))
    assert "--uid 1000" in DOCKERFILE and "RAY_AUTH_MODE=token" in DOCKERFILE
    assert not re.search(r"^\s+(?!.*==)[a-z0-9-]+ \\$", DOCKERFILE.split("-c requirements.lock")[1], re.MULTILINE)
    for source in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


def test_packages_of_a_users_home_do_not_come_before_those_of_the_image():
    """Apptainer mounts $HOME, and with it ~/.local/lib/python3.11/site-packages."""
    said = re.sub(r"^ *#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    (environment,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", said, re.MULTILINE)
    assert "PYTHONNOUSERSITE=1" in environment.replace("\\", " ").split()


def test_python_of_the_image_is_one_that_the_project_supports():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11" and "python:3.11." in DOCKERFILE


@pytest.mark.parametrize("name", NAMES)
def test_readme_and_file_say_how_a_cluster_comes_is_used_and_goes(name):
    assert f"[{name}]({name})" in README
    text = (CLUSTERS / name).read_text()
    up, down = ("sbatch", "scancel") if name.endswith(".sbatch") else ("ray up -y", "ray down -y")
    if name.startswith("kuberay"):
        up, down = "kubectl apply -f", "kubectl delete -f"
    for place in (text, commands(README)):
        assert f"{up} clusters/{name}" in place
        assert (f"{down} clusters/{name}" if down != "scancel" else "scancel JOBID") in place
    assert "orchestrator.sweep" in text and "--resume" in text


def statements(name):
    """Of the policy that the README writes into a file."""
    (policy,) = re.findall(rf"cat > {name} <<< '(.*?)'\n", README, re.DOTALL)
    return json.loads(policy)["Statement"]


def test_the_head_on_aws_ends_and_tags_instances_of_its_cluster_alone():
    """Ray tags instances when it asks for them, and again while they run: with their state."""
    names = [yaml.safe_load(path.read_text())["cluster_name"] for path in ALL if path.name.startswith("aws-")]
    own = {"StringEquals": {f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}": names}}
    launching = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    found = {}
    for statement in statements("head.json"):
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            found.setdefault(action, []).append(statement.get("Condition"))
    assert found == {
        "ec2:RunInstances": [None], "ec2:Describe*": [None], "ssm:GetParameters": [None], "iam:PassRole": [None],
        "ec2:TerminateInstances": [own], "ec2:CreateTags": [own, launching],
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_readme_opens_mlflows_store_where_the_sweep_of_the_file_has_it(name):
    text = (CLUSTERS / name).read_text()
    _, _, looking = README.partition("## Look at it")
    (row,) = [line for line in looking.splitlines() if line.startswith("|") and f"`{name}`" in line]
    stores = set(re.findall(r"sqlite:///[\w/.]+", row))
    given = set(re.findall(r"tracking\.uri=(sqlite:[\w/.]+)", text))
    if name == "slurm.sbatch":  # in a folder that ends with the job
        assert 'tracking="sqlite:///$scratch/mlflow.db"' in text and 'rm -rf "$scratch"' in text
        assert "orchestrator.sync lethe-tofu_search --tracking-uri" in row
    elif "--resume /shared" in text:
        assert given == stores == {"sqlite:////home/lethe/mlflow.db"}
        commands_of_it = [line for line in commands(README).splitlines() if "--resume /shared" in line]
        assert all("tracking.uri=sqlite:////home/lethe/mlflow.db" in line for line in commands_of_it)
    else:  # the folder of copies, which is $HOME/lethe in the image
        assert (given, stores) == (set(), {"sqlite:////home/lethe/lethe/mlflow.db"})


def test_readme_answers_what_it_has_to():
    for heading in (
        "Which to pick", "Once", "Up, submit, down", "What it costs", "Where things are", "Look at it", "Spot nodes",
    ):  # fmt: skip
        assert re.search(rf"^## .*{heading}", README, re.MULTILINE), heading
    assert re.search(r"20\d\d", README)
