"""The page of recorded training speeds: what fits, how fast it is, and how the goals stand."""

from typing import Any

from benchmarks.gpu.naive import MEMORY_NOTE
from benchmarks.gpu.record import table

_TITLES = "what, method, ZeRO, train, tokens/s, utilisation, s/step, rows/step, padding, peak GiB"
UTILISATION, SPEEDUP, FULL_GIB = 0.45, 5.0, 139.0


def page(facts: dict[str, Any]) -> list[str]:
    """Lines of the page."""
    runs = facts["runs"]
    return [
        f"# Training speed of the {facts['shape']} shape on one {facts['device']}",
        f"{facts['parameters'] / 1e9:.2f} billion random weights, rows of {facts['data']}. Tokens are attended tokens "
        "of the rows that the method needs; utilisation is the matrix products that these need "
        f"(benchmarks/gpu/flops.py) over a dense bfloat16 peak of {facts['peak_tflops']:g} TFLOP/s.",
        "",
        *table(_TITLES.split(", "), [_row(run) for run in runs]),
        "",
        "ZeRO: stage, and what is kept in host memory. Padding: share of what went through the model. A configuration "
        "that does not fit names the peak that it had reached.",
        MEMORY_NOTE,
        "",
        *_goals(runs),
    ]


def _row(run: dict[str, Any]) -> list[str]:
    first = [run["mode"], run["method"], run["zero"], run["variant"].replace(",", ", ") or "defaults"]
    peak = f"{run['peak_gib']:.1f}" if "peak_gib" in run else ""
    if run["state"] != "measured":
        return [*first, run["state"], "", "", "", "", peak]
    each = sum(run["seconds"]) / len(run["seconds"])
    return [
        *first,
        f"{run['tokens_per_second']:,.0f}",
        f"{run['utilisation']:.1%}",
        f"{each:.2f}",
        str(run["batch_size"]),
        f"{run['padding_share']:.0%}",
        peak,
    ]


def comparisons(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest configuration of each mode and method, and how many times as fast as the naive loop it is."""
    done = [run for run in runs if run["state"] == "measured"]
    found = []
    for mode, naive_mode in (("full", "naive"), ("lora", "naive-lora")):
        for method in dict.fromkeys(run["method"] for run in done):
            ours = [run for run in done if (run["mode"], run["method"]) == (mode, method)]
            naive = [run for run in done if (run["mode"], run["method"]) == (naive_mode, method)]
            if ours:
                best = max(ours, key=_rate)
                times = _rate(best) / _rate(naive[0]) if naive else None
                found.append({"mode": mode, "method": method, "best": best, "times_naive": times})
    return found


def _rate(run: dict[str, Any]) -> float:
    """Tokens a second, the reference's share included."""
    return float(run.get("tokens_per_second_with_reference", run["tokens_per_second"]))


def _goals(runs: list[dict[str, Any]]) -> list[str]:
    rows = []
    for one in comparisons(runs):
        best, times = one["best"], one["times_naive"]
        peak = best.get("peak_gib")
        within = "" if peak is None or one["mode"] != "full" else _verdict(f"{peak:.1f} GiB", peak <= FULL_GIB)
        rows.append(
            [
                one["mode"],
                one["method"],
                f"ZeRO {best['zero']}, {best['variant'] or 'defaults'}",
                _verdict(f"{best['utilisation']:.1%}", best["utilisation"] >= UTILISATION),
                "not measured" if times is None else _verdict(f"{times:.1f}", times >= SPEEDUP),
                within,
            ]
        )
    titles = [
        f"utilisation (goal {UTILISATION:.0%})",
        f"times the naive loop (goal {SPEEDUP:g})",
        f"memory (goal {FULL_GIB:g} GiB)",
    ]
    return [
        "The fastest of each, against the goals. Times the naive loop: tokens a second, Lethe's with its share of the "
        "reference pass, which is made once for all epochs.",
        "",
        *table(["what", "method", "fastest with", *titles], rows),
    ]


def _verdict(number: str, met: bool) -> str:
    return f"{number}, {'met' if met else 'missed'}"
