"""What a sweep cost: time on the clock and GPU time, over sittings that ended well, badly, or not at all."""

import pytest

from orchestrator.tracking.journal import (
    StepsReported,
    SweepEnded,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    TrialTaken,
)
from orchestrator.tracking.sweep_log import log_of


def header(time):
    return SweepStarted(
        name="s", seed=1, config={}, cells=(), objectives=(), lookahead=1, versions={}, command="c", time=time
    )


def started(key, time, gpus=4.0):
    return TrialStarted(key=key, method="GA", forget_set="f", number=0, params={}, config={}, gpus=gpus, time=time)


def taken(key, time):
    return TrialTaken(key=key, time=time)


def finished(key, time, gpu_seconds=None):
    return TrialFinished(key=key, state="COMPLETE", time=time, gpu_seconds=gpu_seconds)


def steps(key, time):
    return StepsReported(key=key, steps=(), time=time)


# Of "b" workers were found at once, of "a" after ten seconds; then the sweep was killed.
FIRST = [
    header(0), started("a", 10), started("b", 20), taken("b", 20), taken("a", 20), taken("a", 60),
    finished("a", 120, gpu_seconds=400), steps("b", 150),
]  # fmt: skip
SECOND = [
    header(1000), started("b", 1000), taken("b", 1005), finished("b", 1105, gpu_seconds=400),
    SweepEnded(state="done", time=1106),
]  # fmt: skip
CASES = {
    "one sitting": (FIRST, 150, 4 * (100 + 130)),
    "resumed": (FIRST + SECOND, 150 + 106, 4 * (100 + 130 + 100)),
    "not resumed to its end": (FIRST + SECOND[:3], 150 + 5, 4 * (100 + 130)),
    "told again, then killed": (
        [*FIRST, header(1000), started("b", 1000), taken("b", 1005), steps("b", 150)],
        150 + 5,
        4 * (100 + 130),
    ),
    "waiting for workers": ([header(0), started("a", 10)], 10, 0),
    "a journal that does not say since when": ([header(0), started("a", 10), finished("a", 110)], 110, 4 * 100),
    "without GPUs": ([header(0), started("a", 1, gpus=0.0), finished("a", 9)], 9, 0),
    "nothing ran": ([header(0)], 0, 0),
}


@pytest.mark.parametrize(("records", "seconds", "gpu_seconds"), CASES.values(), ids=CASES)
def test_what_was_spent(records, seconds, gpu_seconds, tmp_path):
    assert log_of(records, tmp_path).spent() == (seconds, gpu_seconds)


def test_what_is_held_now_counts_too(tmp_path):
    log = log_of(FIRST + SECOND[:3], tmp_path)
    assert log.spent(now=1015) == (150 + 15, 4 * (100 + 130 + 10))
    assert log.trials["a"].gpu_seconds == 400 and log.trials["b"].gpu_seconds is None
