"""Methods can be told apart: on both pages, and without colour."""

import itertools

import pytest

from orchestrator.analysis.build import PAGE
from orchestrator.analysis.palette import (
    BASELINE_COLORS,
    BASELINE_SYMBOLS,
    DARK_BASELINE_COLORS,
    method_colors,
    method_symbols,
    on_dark,
)

METHODS = [f"method {number}" for number in range(16)]
PAPERS = {"light": ("#fbfbf9", "#ffffff"), "dark": ("#151618", "#1f2124")}


def luminance(color):
    """Relative, WCAG 2.2."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_papers_are_those_of_the_page():
    css = (PAGE / "report.css").read_text()
    assert all(
        f"--{name}: {color};" in css
        for pair in PAPERS.values()
        for name, color in zip(("paper", "raised"), pair, strict=True)
    )


@pytest.mark.parametrize("paper", PAPERS["light"])
@pytest.mark.parametrize("color", method_colors(METHODS).values())
def test_colours_stand_out_from_a_light_page(color, paper):
    assert contrast(color, paper) >= 3


@pytest.mark.parametrize("paper", PAPERS["dark"])
@pytest.mark.parametrize("color", [*map(on_dark, method_colors(METHODS).values()), *DARK_BASELINE_COLORS.values()])
def test_colours_stand_out_from_a_dark_page(color, paper):
    assert contrast(color, paper) >= 3


def test_no_two_methods_look_the_same():
    colors, symbols = method_colors(METHODS), method_symbols(METHODS)
    assert colors.keys() == symbols.keys() == {*METHODS, *BASELINE_COLORS}
    assert len({(colors[name], symbols[name]) for name in colors}) == len(colors)
    for one, other in itertools.pairwise(METHODS):
        assert symbols[one] != symbols[other]
    assert not {symbols[name] for name in METHODS} & {*BASELINE_SYMBOLS.values()}
