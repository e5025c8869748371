"""One colour and one symbol for each method, everywhere: the report, the MLflow page, the terminal."""

# Paul Tol's "muted" and "bright" schemes, distinguishable with colour-blindness; neighbours in the list differ most.
# Those too pale for a light page are darkened until they stand out from it by 3:1, as WCAG 2.2 asks of graphics.
_COLORS = (
    "#4477AA", "#E96475", "#228833", "#9F9235", "#4C99B2", "#AA3377", "#882255", "#3F9E8E",
    "#949431", "#332288", "#117733", "#CC6677", "#6597B0", "#9D9154", "#661100", "#6394C6",
)  # fmt: skip
# plotly's names. Colour is not all that tells methods apart; a pair comes again only when both lists are used up.
_SYMBOLS = ("circle", "square", "triangle-up", "cross", "triangle-down", "x", "hourglass")
BASELINE_COLORS = {"before": "#555555", "retain_model": "#000000"}
DARK_BASELINE_COLORS = {"before": "#aaaaaa", "retain_model": "#ffffff"}
BASELINE_SYMBOLS = {"before": "diamond-open", "retain_model": "star"}


def method_colors(methods: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Colour of each method by its place in the sweep's list, and of the two baselines."""
    return {**{name: _COLORS[i % len(_COLORS)] for i, name in enumerate(methods)}, **BASELINE_COLORS}


def method_symbols(methods: list[str] | tuple[str, ...]) -> dict[str, str]:
    """plotly's name of the symbol of each method by its place in the sweep's list, and of the two baselines."""
    return {**{name: _SYMBOLS[i % len(_SYMBOLS)] for i, name in enumerate(methods)}, **BASELINE_SYMBOLS}


def on_dark(color: str) -> str:
    """The same `#rrggbb` colour, mixed with as much white as it needs to be told from a dark background."""
    channels = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    brightness = sum(channels) / 3
    share = (140 - brightness) / (255 - brightness) if brightness < 140 else 0.0
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02x}" for channel in channels)
