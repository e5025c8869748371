"""A record reaches everybody or nobody: an interrupt waits for it."""

import os
import signal
import threading
import time

import pytest

from orchestrator.tracking.journal import Journal, SweepEnded, SweepStarted, read_records
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import SweepLog

HEADER = SweepStarted(name="s", seed=1, config={}, cells=(), objectives=(), lookahead=1, versions={}, command="c")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_of_a_record_comes_after_it(tmp_path, number):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    heard = []
    recorder = Recorder(Journal(tmp_path), SweepLog(HEADER))
    taker = threading.Thread(target=time.sleep, args=(2.0,))  # another thread may take the signal
    recorder.listeners = [lambda record: (taker.start(), os.kill(os.getpid(), number), time.sleep(0.1)), heard.append]
    try:
        with pytest.raises(KeyboardInterrupt):
            recorder.record(SweepEnded(state="done"))
    finally:
        signal.signal(number, before)
    assert [record.kind for record in heard] == ["sweep_ended"]
    assert recorder.log.ended is not None and len(list(read_records(tmp_path))) == 1
    recorder.close()
    taker.join()
