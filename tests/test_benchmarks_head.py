"""What the program that measures the head makes of what it finds."""

from benchmarks import head


def test_a_slot_is_the_slope_and_the_rest_is_what_there_is_without_any():
    assert head.by_slot([{"slots": 1, "head_mb": 1500.0}, {"slots": 3, "head_mb": 2500.0}]) == {
        "slot_mb": 500.0,
        "rest_mb": 1000.0,
    }


def test_processes_are_told_apart_by_actor_script_or_program():
    assert head._kind(["ray::ImplicitFunc.train"]) == "ImplicitFunc"
    assert head._kind(["/usr/bin/python", "-u", "/ray/_private/log_monitor.py", "--id=1"]) == "log_monitor.py"
    assert head._kind(["/ray/core/src/ray/raylet/raylet", "--x"]) == "raylet"


def test_this_process_is_the_driver():
    found = head.processes()
    assert found["driver"]["count"] == 1 and found["driver"]["mb"] > 1
