"""One colour for each method, everywhere: the report, the MLflow page, the terminal."""

# Paul Tol's "muted" and "bright" schemes, distinguishable with colour-blindness; neighbours in the list differ most.
_COLORS = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#882255", "#44AA99",
    "#999933", "#332288", "#117733", "#CC6677", "#88CCEE", "#DDCC77", "#661100", "#6699CC",
)  # fmt: skip
BASELINE_COLORS = {"before": "#555555", "retain_model": "#000000"}
DARK_BASELINE_COLORS = {"before": "#aaaaaa", "retain_model": "#ffffff"}


def method_colors(methods: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Colour of each method by its place in the sweep's list, and of the two baselines."""
    return {**{name: _COLORS[i % len(_COLORS)] for i, name in enumerate(methods)}, **BASELINE_COLORS}


def on_dark(color: str) -> str:
    """The same `#rrggbb` colour, mixed with as much white as it needs to be told from a dark background."""
    channels = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    brightness = sum(channels) / 3
    share = (140 - brightness) / (255 - brightness) if brightness < 140 else 0.0
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02x}" for channel in channels)
