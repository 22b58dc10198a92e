"""When a run is broken off."""

from __future__ import annotations

from tests.scenario.documents import scenario
from twin.scenario.abort import AbortWatch


def watch(**limits: float) -> AbortWatch:
    return AbortWatch(scenario(abort_when={"success_ratio": limits}, workload__warmup_s=10))


def test_below_the_ratio_over_the_window_the_run_is_broken_off_and_says_why() -> None:
    it = watch(below=0.5, window_s=10)
    for second in range(20, 26):
        it.ended(float(second), succeeded=second < 22)
    assert it.reason(26.0) == "at 26.0 s: success ratio 0.33 over 10 s, below 0.5"


def test_at_the_ratio_it_goes_on() -> None:
    it = watch(below=0.5, window_s=10)
    for second in range(20, 26):
        it.ended(float(second), succeeded=second < 23)
    assert it.reason(26.0) == ""


def test_what_left_the_window_and_fewer_than_five_ends_say_nothing() -> None:
    it = watch(below=0.5, window_s=10)
    for second in range(20, 26):
        it.ended(float(second), succeeded=False)
    assert it.reason(32.5) == ""


def test_the_warm_up_is_not_judged() -> None:
    it = watch(below=0.5, window_s=10)
    for second in range(1, 9):
        it.ended(float(second), succeeded=False)
    assert it.reason(9.0) == ""


def test_without_abort_when_nothing_is_followed() -> None:
    it = AbortWatch(scenario())
    for second in range(20, 40):
        it.ended(float(second), succeeded=False)
    assert it.reason(40.0) == ""
