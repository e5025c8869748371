"""One colour for each method, everywhere: the report, the MLflow page, the terminal."""

# Paul Tol's "muted" and "bright" schemes, distinguishable with colour-blindness; neighbours in the list differ most.
_COLORS = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#882255", "#44AA99",
    "#999933", "#332288", "#117733", "#CC6677", "#88CCEE", "#DDCC77", "#661100", "#6699CC",
)  # fmt: skip
BASELINE_COLORS = {"before": "#555555", "retain_model": "#000000"}


def method_colors(methods: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Colour of each method by its place in the sweep's list, and of the two baselines."""
    return {**{name: _COLORS[i % len(_COLORS)] for i, name in enumerate(methods)}, **BASELINE_COLORS}
