"""A record reaches everybody or nobody: an interrupt waits for it."""

import os
import signal

import pytest

from orchestrator.tracking.journal import Journal, SweepEnded, SweepLog, SweepStarted, read_records
from orchestrator.tracking.recorder import Recorder

HEADER = SweepStarted(name="s", seed=1, config={}, cells=(), objectives=(), lookahead=1, versions={}, command="c")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_of_a_record_comes_after_it(tmp_path, number):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    heard = []
    recorder = Recorder(Journal(tmp_path), SweepLog(HEADER))
    recorder.listeners = [lambda record: os.kill(os.getpid(), number), heard.append]
    try:
        with pytest.raises(KeyboardInterrupt):
            recorder.record(SweepEnded(state="done"))
    finally:
        signal.signal(number, before)
    assert [record.kind for record in heard] == ["sweep_ended"]
    assert recorder.log.ended is not None and len(list(read_records(tmp_path))) == 1
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}
    recorder.close()
