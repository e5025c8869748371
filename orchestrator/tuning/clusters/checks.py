"""What is wrong with a cluster file, said before a node is paid for."""

import importlib.metadata
import re
from collections.abc import Callable, Iterator

from orchestrator.tuning.clusters import batch, launcher, pods
from orchestrator.tuning.clusters.files import ClusterFile

Check = Callable[[ClusterFile], Iterator[str]]

_OPEN = re.compile(r"(?<![\d.])0\.0\.0\.0(/0)?(?!\.?\d)|(?<![:\w])::/0")
_SECRETS = re.compile(r"hf_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b[0-9a-f]{64}\b")
_IMAGE = re.compile(r"(?:(?<![\w-])image:\s*|docker://)(?P<name>[^\s'\"]+)")


def image() -> str:
    """The image that clusters/Dockerfile builds for this version."""
    return f"ghcr.io/lethe-unlearning/lethe:{importlib.metadata.version('lethe-unlearning')}"


def problems(file: ClusterFile) -> list[str]:
    """One line for each problem: the name of the check, then what is wrong and what to write instead."""
    own: dict[str, tuple[Check, ...]] = {
        "launcher": launcher.CHECKS,
        "kuberay": pods.CHECKS,
        "slurm": batch.CHECKS,
    }
    found = []
    for check in (no_open_address, no_secret, one_image, *own[file.kind]):
        name = check.__name__.replace("_", "-")
        found += [f"{name}: {message}" for message in check(file)]
    return found


def _lines(file: ClusterFile) -> Iterator[tuple[int, str]]:
    """Lines without their comments, with their numbers."""
    for number, line in enumerate(file.text.splitlines(), start=1):
        yield number, re.sub(r"(^|\s)#(?!SBATCH|!).*", "", line)


def no_open_address(file: ClusterFile) -> Iterator[str]:
    """Nothing listens on, or lets in, every address."""
    for number, line in _lines(file):
        if found := _OPEN.search(line):
            yield (
                f"line {number}: {found[0]} is every address; let in the cluster's own, and listen on 127.0.0.1 or on "
                "the node's internal address"
            )


def no_secret(file: ClusterFile) -> Iterator[str]:
    """Keys and tokens are not written into files that get copied."""
    for number, line in enumerate(file.text.splitlines(), start=1):
        if _SECRETS.search(line):
            yield f"line {number}: holds a key or token; name a file or a Secret that holds it instead"


def one_image(file: ClusterFile) -> Iterator[str]:
    """Every node runs the image of this version, whatever registry holds it."""
    named = {found["name"] for _, line in _lines(file) for found in _IMAGE.finditer(line)}
    wanted = image().rpartition("/")[2]
    for other in sorted(name for name in named if name.rpartition("/")[2] != wanted):
        yield f"names image {other}; every node needs {image()}, which has this version of Lethe and of Ray"
    if len(named) > 1:
        yield f"names several images, {', '.join(sorted(named))}; every node needs the same"
    if not named:
        yield f"names no image; every node needs {image()}"
