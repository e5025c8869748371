"""Where the names of baselines stand: in figures whose axes count pixels, so that every number is by hand."""

import pytest

from orchestrator.analysis.labels import LETTER_WIDTH, NARROW, TEXT_HEIGHT, WIDE, Size, best_offsets, place_names
from orchestrator.analysis.plots import figures
from orchestrator.analysis.summary import summarize

SIZE = Size(400, 300, 12)
PIXELS = [(0.0, 400.0), (0.0, 300.0)]
ABOVE, BELOW = (0.0, 18), (0.0, -18)


def symbol(x, y, name="before"):
    return {"mode": "markers", "x": [x], "y": [y], "marker": {"size": 14}, "name": name}


def points(*places, size=8, **more):
    x, y = zip(*places, strict=True)
    return {"mode": "markers", "x": x, "y": y, "marker": {"size": size}, **more}


def line(*places, shape="hv"):
    x, y = zip(*places, strict=True)
    return {"mode": "lines", "x": x, "y": y, "line": {"shape": shape}}


def offset(*others, at=(200, 150)):
    (found,) = best_offsets([*others, symbol(*at)], PIXELS, SIZE)
    return found


def test_a_name_that_is_alone_stands_above():
    assert offset() == offset(points((200, 200), (250, 150))) == ABOVE


def test_a_name_goes_where_no_point_is():
    assert offset(points((210, 170))) == BELOW
    beside = LETTER_WIDTH * len("before") / 2 + 11
    assert offset(points((210, 170), (195, 130))) == (beside, 0.0)
    assert offset(points((210, 170), (195, 130), (230, 150))) == (-beside, 0.0)


def test_the_size_of_each_symbol_counts():
    assert offset(points((200, 180), size=14)) == BELOW
    assert offset(points((200, 180), (0, 0), size=[14, 30])) == BELOW
    assert offset(points((200, 180), (0, 0), size=[8, 30])) == ABOVE


@pytest.mark.parametrize(("shape", "expected"), [("hv", BELOW), ("vh", ABOVE)])
def test_a_name_keeps_off_the_steps_of_a_front(shape, expected):
    """Between these two points one step goes through the place above, the other through none."""
    assert offset(line((100, 168), (300, 100), shape=shape)) == expected


def test_a_name_keeps_off_the_bars_of_deviations():
    bar = {"error_x": {"type": "data", "array": [60.0]}}
    assert offset(points((130, 168))) == ABOVE
    assert offset(points((130, 168), **bar)) == BELOW


def test_rather_a_line_behind_the_name_than_a_name_far_away():
    (x, y) = offset(line((0, 168), (400, 168)), line((0, 132), (400, 132)), line((0, 150), (400, 150)))
    assert abs(y) == 18 or y == 0


def test_a_name_stays_in_the_figure():
    x, y = offset(at=(395, 295))
    half = LETTER_WIDTH * len("before") / 2
    assert 395 + x + half <= 400 + 12 and 295 + y + TEXT_HEIGHT / 2 <= 300 + 12


def test_two_names_at_one_place_stand_apart():
    first, second = best_offsets([symbol(200, 150), symbol(200, 150, "retain model")], PIXELS, SIZE)
    assert (first, second) == (ABOVE, BELOW)


def test_every_name_has_a_place_for_each_width():
    star = symbol(0.815, 0.771, "retain model")
    near = points((0.68, 0.845), (0.71, 0.797), (0.645, 0.845), (0.8, 0.655), size=13)
    (name,) = place_names([near, star], [(-0.06, 0.9), (0.05, 0.95)])
    assert (name["x"], name["y"], name["text"]) == (0.815, 0.771, "retain model")
    assert name["wide"] == ABOVE and name["narrow"] != ABOVE


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_no_point_of_a_sweep_is_behind_a_name(log, size):
    for figure in figures(summarize(log)):
        ranges = [figure["layout"][axis]["range"] for axis in ("xaxis", "yaxis")]

        def pixel(value, axis, ranges=ranges):
            low, high = ranges[axis]
            return (value - low) / (high - low) * size[axis]

        for name in figure["layout"]["annotations"]:
            x, y = (pixel(name["xy"[axis]], axis) + name["wide" if size is WIDE else "narrow"][axis] for axis in (0, 1))
            for trace in figure["data"]:
                if trace["mode"] == "markers":
                    for at in zip(trace["x"], trace["y"], strict=True):
                        far = abs(pixel(at[0], 0) - x) > LETTER_WIDTH * len(name["text"]) / 2
                        assert far or abs(pixel(at[1], 1) - y) > TEXT_HEIGHT / 2
