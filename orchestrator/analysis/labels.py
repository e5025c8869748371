"""Where the names of baselines stand in a figure: near to their symbols, where they cover the fewest points and lines.

How wide a figure is, only the browser knows. A name has therefore two places: one in a figure of the usual size and one
in a phone's.
"""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Size(NamedTuple):
    """Pixels between the axes, and how far a text may reach over them on the right; see plots.js."""

    width: int
    height: int
    margin: int


WIDE, NARROW = Size(530, 360, 36), Size(256, 260, 12)
LETTER_WIDTH, TEXT_HEIGHT = 6.5, 13  # pixels, of a text of 12
_TOP_MARGIN = 12
_BESIDE, _ABOVE, _FAR_ABOVE = 11, 18, 32  # pixels from the middle of a symbol to the end or the middle of its name
# What it costs to cover one, or to stand far away.
_LINE, _FAR, _POINT, _TEXT, _EDGE = 1.0, 1.5, 4.0, 16.0, 64.0
Box = tuple[float, float, float, float]  # left, bottom, right, top
Offset = tuple[float, float]  # pixels from a symbol to the middle of its name, to the right and up
Ranges = Sequence[tuple[float, float]]  # of the axes


def place_names(traces: Sequence[dict[str, Any]], ranges: Ranges) -> list[dict[str, Any]]:
    """For each trace of one point with a `name`: where it is, its `text`, and the offsets when `wide` and `narrow`."""
    named = [trace for trace in traces if "name" in trace]
    wide, narrow = best_offsets(traces, ranges, WIDE), best_offsets(traces, ranges, NARROW)
    return [
        {"x": trace["x"][0], "y": trace["y"][0], "text": trace["name"], "wide": in_wide, "narrow": in_narrow}
        for trace, in_wide, in_narrow in zip(named, wide, narrow, strict=True)
    ]


def best_offsets(traces: Sequence[dict[str, Any]], ranges: Ranges, size: Size) -> list[Offset]:
    """The best place of each name in a figure of that size, in the order of the traces."""
    low, high = (np.array(ends, dtype=float) for ends in zip(*ranges, strict=True))
    scale = np.array(size[:2]) / (high - low)
    covered = [part for trace in traces for part in _covered(trace, low, scale)]
    boxes, costs = [box for box, _ in covered], [cost for _, cost in covered]
    found = []
    for trace in traces:
        if "name" not in trace:
            continue
        x, y = (np.array([trace["x"][0], trace["y"][0]]) - low) * scale
        width = LETTER_WIDTH * len(trace["name"])
        places = {offset: _text_box(x + offset[0], y + offset[1], width) for offset in _offsets(width)}
        there, its_cost = np.array(boxes), np.array(costs)
        prices = {
            offset: _cost(box, there, its_cost, size) + _FAR * (abs(offset[1]) > _ABOVE)
            for offset, box in places.items()
        }
        found.append(min(prices, key=prices.__getitem__))
        boxes.append(places[found[-1]])
        costs.append(_TEXT)
    return found


def _offsets(width: float) -> list[Offset]:
    """All places of a name that is so wide, the most usual first: of those equally good, the first is taken."""
    beside = width / 2 + _BESIDE
    usual = [(0.0, _ABOVE), (0.0, -_ABOVE), (beside, 0.0), (-beside, 0.0)]
    shifts = [sign * shift for shift in (0.0, width / 4, width / 2, beside) for sign in (1, -1)]
    return usual + [(shift, up) for up, shift in product((_ABOVE, -_ABOVE, _FAR_ABOVE, -_FAR_ABOVE), shifts)]


def _covered(trace: dict[str, Any], low: NDArray[np.float64], scale: NDArray[np.float64]) -> list[tuple[Box, float]]:
    """What a name must not lie on: symbols, their error bars, and the parts of a step line."""
    points = (np.array([trace["x"], trace["y"]], dtype=float).T - low) * scale
    if trace["mode"] == "lines":
        corners = [points[0]]
        for (x, y), (next_x, next_y) in pairwise(points):
            turn = (next_x, y) if trace["line"]["shape"] == "hv" else (x, next_y)
            corners += [np.array(turn), np.array([next_x, next_y])]
        return [(_box(np.minimum(a, b), np.maximum(a, b)), _LINE) for a, b in pairwise(corners)]
    radii = np.broadcast_to(np.array(trace["marker"]["size"]) / 2, len(points))
    parts = [(_box(point - radius, point + radius), _POINT) for point, radius in zip(points, radii, strict=True)]
    for axis, way in (("error_x", (1, 0)), ("error_y", (0, 1))):
        for point, bar in zip(points, trace.get(axis, {}).get("array", ()), strict=False):
            reach = bar * scale * way
            parts.append((_box(point - reach, point + reach), _LINE))
    return parts


def _box(low: NDArray[np.float64], high: NDArray[np.float64]) -> Box:
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _text_box(x: float, y: float, width: float) -> Box:
    return x - width / 2, y - TEXT_HEIGHT / 2, x + width / 2, y + TEXT_HEIGHT / 2


def _cost(box: Box, boxes: NDArray[np.float64], costs: NDArray[np.float64], size: Size) -> float:
    left, bottom, right, top = box
    hits = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < top) & (boxes[:, 3] > bottom)
    outside = left < 0 or bottom < 0 or right > size.width + size.margin or top > size.height + _TOP_MARGIN
    return float(costs[hits].sum()) + _EDGE * outside
