"""An Ollama node: what its queues, its loader, its memory and its server do. Numbers of the facts as in the docs."""

from __future__ import annotations

import pytest

from tests.sim.worlds import LOAD_S, NodeBench
from twin.sim.memory import RECOVERED_SHARE, RECOVERY_LIMIT_S, USUAL_RETURN_S

VRAM_RECOVERY_S = RECOVERED_SHARE * USUAL_RETURN_S


def test_1_requests_for_a_loaded_model_wait_without_bound_and_never_get_a_503() -> None:
    bench = NodeBench(max_queue=3)
    bench.node.add_runner("a")
    for number in range(2000):
        bench.ask(0.0, f"{number}", "a")
    ended = bench.run()
    assert {error for _, error in ended.values()} == {""}
    assert ended["1999"] == (pytest.approx(200.0), "")


def test_1_the_bounded_queue_is_for_requests_that_need_a_load() -> None:
    bench = NodeBench(max_queue=3)
    for number in range(6):
        bench.ask(0.0, f"{number}", "a")
    ended = bench.run()
    # One is being loaded for, three wait, and the rest are turned away at once.
    assert [error for _, error in ended.values()].count("overloaded") == 2
    assert (ended["4"], ended["5"]) == ((0.0, "overloaded"), (0.0, "overloaded"))
    assert ended["3"] == (pytest.approx(LOAD_S + 0.4), "")


def test_2_the_head_of_the_load_queue_blocks_those_behind_it_and_not_the_hot_ones() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.ask(0.0, "long on a", "a", tokens=1000)
    bench.ask(0.0, "long on b", "b", tokens=2000)
    bench.ask(1.0, "cold", "c")  # nothing can be evicted before 10 s
    bench.ask(2.0, "also cold", "a", context=8192)  # its runner is busy, too, but it is not even looked at
    bench.ask(3.0, "hot", "b")
    ended = bench.run()
    assert ended["long on a"] == (10.0, "")
    assert ended["cold"] == (pytest.approx(10.0 + LOAD_S + VRAM_RECOVERY_S + 0.1), "")
    assert ended["hot"] == (pytest.approx(20.1), "")
    # For it c has to go again, or b once it is idle: whichever is idle first.
    assert ended["also cold"][0] > ended["cold"][0] + LOAD_S


def test_3_a_stuck_loader_hangs_cold_requests_for_ever_while_all_that_can_be_read_stays_green() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.at(1.0, bench.node.stick_loader)
    bench.ask(2.0, "cold", "b")
    bench.ask(3.0, "hot", "a")
    ended = bench.run(5000.0)
    assert ended == {"hot": (3.1, "")}
    assert bench.node.alive
    assert bench.node.resident() == ("a",)


def test_3_a_load_that_was_under_way_hangs_too_and_only_a_new_server_frees_the_loader() -> None:
    bench = NodeBench()
    bench.ask(0.0, "under way", "a")
    bench.at(1.0, bench.node.stick_loader)
    bench.at(100.0, bench.node.kill_runner)  # does not help
    bench.at(200.0, bench.node.kill_server)
    bench.at(201.0, bench.node.start_server)
    bench.ask(202.0, "after", "a")
    ended = bench.run()
    assert ended == {"under way": (200.0, "reset"), "after": (pytest.approx(202.0 + LOAD_S + 0.1), "")}


def test_4_of_equal_sessions_the_first_by_name_is_evicted_and_its_memory_takes_a_while_to_come_back() -> None:
    bench = NodeBench()
    bench.ask(0.0, "a", "a")
    bench.ask(10.0, "b", "b")
    bench.ask(20.0, "a again", "a")
    bench.ask(30.0, "c", "c")
    ended = bench.run()
    assert ended["a"] == (pytest.approx(LOAD_S + 0.1), "")
    assert ended["c"] == (pytest.approx(30.0 + LOAD_S + VRAM_RECOVERY_S + 0.1), "")
    assert set(bench.node.resident()) == {"b", "c"}, "b was idle for longer, but Ollama does not ask for that"
    assert bench.node.vram_used_gib() == 10.0


def test_4_the_idle_runner_with_the_shortest_session_is_evicted_first() -> None:
    bench = NodeBench(keep_alive_s=300.0)
    bench.node.session_s["b"] = 60.0
    bench.ask(0.0, "a", "a")
    bench.ask(10.0, "b", "b")
    bench.ask(30.0, "c", "c")
    bench.run(100.0)
    assert set(bench.node.resident()) == {"a", "c"}


def test_4_where_all_are_busy_the_one_with_the_shortest_session_has_to_go_whoever_is_idle_before() -> None:
    bench = NodeBench()
    bench.node.session_s["a"] = 60.0
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.ask(0.0, "long on a", "a", tokens=1000)
    bench.ask(0.0, "short on b", "b", tokens=100)
    bench.ask(0.5, "c", "c")
    ended = bench.run()
    assert ended["c"] == (pytest.approx(10.0 + VRAM_RECOVERY_S + LOAD_S + 0.1), ""), "b was idle from 1 s on"
    assert set(bench.node.resident()) == {"b", "c"}


def test_4_a_busy_runner_is_not_evicted() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.ask(0.0, "busy", "a", tokens=1000)
    bench.ask(1.0, "c", "c")
    bench.at(2.0, lambda: seen.append(set(bench.node.runners)))
    seen: list[set[str]] = []
    bench.run()
    assert seen == [{"a"}], "b, the idle one, went; a, which is older, did not"


def test_5_the_time_to_load_counts_from_the_submission() -> None:
    bench = NodeBench()
    bench.ask(1.0, "first", "a")
    bench.ask(2.0, "second", "a")
    bench.run()
    assert bench.jobs["second"].loaded_s - bench.jobs["second"].submitted_s == pytest.approx(LOAD_S - 1.0)


def test_6_a_client_that_goes_away_during_a_load_aborts_it() -> None:
    bench = NodeBench()
    bench.ask(0.0, "impatient", "a")
    bench.hang_up(3.0, "impatient")
    bench.ask(5.0, "later", "a")
    ended = bench.run()
    assert ended == {"later": (pytest.approx(5.0 + LOAD_S + 0.1), "")}, "the load began anew"


def test_6_who_waits_behind_the_aborted_load_has_the_next() -> None:
    bench = NodeBench()
    bench.ask(0.0, "impatient", "a")
    bench.ask(1.0, "patient", "b")
    bench.ask(1.0, "gone as well", "c")
    bench.hang_up(2.0, "gone as well")
    bench.hang_up(3.0, "impatient")
    assert bench.run() == {"patient": (pytest.approx(3.0 + LOAD_S + 0.1), "")}


def test_7_another_context_length_reloads_the_model_once_it_is_idle() -> None:
    bench = NodeBench(slots=2)
    bench.node.add_runner("a")
    bench.ask(0.0, "running", "a", tokens=500)
    bench.ask(1.0, "other context", "a", context=8192)
    bench.ask(2.0, "same", "a")  # the model is still there and has a slot
    bench.ask(20.0, "the new one stays", "a", context=8192)
    ended = bench.run()
    assert ended["same"] == (pytest.approx(2.1), "")
    assert ended["running"] == (pytest.approx(5.0), "")
    assert ended["other context"] == (pytest.approx(5.0 + VRAM_RECOVERY_S + LOAD_S + 0.1), "")
    assert ended["the new one stays"] == (pytest.approx(20.1), "")
    assert bench.node.runners["a"].context_tokens == 8192


def test_8_a_runner_that_dies_is_a_status_before_the_first_token_and_a_record_after_it() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.ask(0.0, "speaking", "a", tokens=1000)
    bench.ask(0.0, "waiting", "a")
    bench.at(1.0, bench.node.kill_runner)
    bench.ask(2.0, "next", "a")
    ended = bench.run()
    assert ended["speaking"] == (1.0, "error_record")
    assert ended["waiting"] == (1.0, "server_error")
    assert ended["next"] == (pytest.approx(2.0 + RECOVERY_LIMIT_S + LOAD_S + 0.1), ""), (
        "the next request pays the load, and a wait for memory that has come back long since"
    )
    assert bench.jobs["speaking"].tokens == 100


def test_9_an_unload_waits_for_nobody_and_takes_only_an_idle_model() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.ask(0.0, "running", "a", tokens=500)
    bench.at(1.0, bench.node.unload, "a")
    bench.at(6.0, bench.node.unload, "a")
    bench.at(7.0, bench.node.unload, "b")  # not loaded: nothing to do
    assert bench.run() == {"running": (pytest.approx(5.0), "")}
    assert bench.node.resident() == ()


def test_10_a_dead_server_cuts_off_everything_and_comes_back_with_nothing_loaded() -> None:
    bench = NodeBench(slots=2)
    bench.node.add_runner("a")
    bench.ask(0.0, "speaking", "a", tokens=1000)
    bench.ask(0.0, "loading", "b")
    bench.ask(0.0, "pending", "c")
    bench.at(1.0, bench.node.kill_server)
    bench.at(2.0, bench.node.start_server)
    ended = bench.run()
    assert ended == {name: (1.0, "reset") for name in ("speaking", "loading", "pending")}
    assert (bench.node.alive, bench.node.resident(), bench.node.started_s) == (True, (), 2.0)
    assert bench.node.busy_s() == pytest.approx(1.0)


def test_a_runner_that_is_killed_while_it_is_loaded_fails_the_request_and_the_next_in_line_loads() -> None:
    bench = NodeBench()
    bench.ask(0.0, "first", "a")
    bench.ask(1.0, "second", "b")
    bench.at(2.0, bench.node.kill_runner)
    ended = bench.run()
    assert ended["first"] == (2.0, "server_error")
    assert ended["second"] == (pytest.approx(2.0 + LOAD_S + 0.1), "")


def test_an_idle_model_is_let_go_after_its_keep_alive_and_loaded_again() -> None:
    bench = NodeBench(keep_alive_s=60.0)
    bench.ask(0.0, "first", "a")
    bench.ask(60.0, "in time", "a")
    bench.ask(200.0, "late", "a")
    seen: list[tuple[str, ...]] = []
    bench.at(100.0, lambda: seen.append(bench.node.resident()))
    bench.at(150.0, lambda: seen.append(bench.node.resident()))
    ended = bench.run()
    assert ended["in time"] == (pytest.approx(60.1), "")
    assert seen == [("a",), ()]
    assert ended["late"] == (pytest.approx(200.0 + LOAD_S + 0.1), "")


def test_a_model_that_is_not_there_is_the_clients_error() -> None:
    bench = NodeBench()
    bench.ask(1.0, "who", "unknown")
    assert bench.run() == {"who": (1.0, "client_error")}


def test_a_preload_ends_when_the_model_is_loaded_and_at_once_where_it_is() -> None:
    bench = NodeBench()
    bench.ask(0.0, "preload", "a", tokens=0)
    bench.ask(10.0, "again", "a", tokens=0)
    assert bench.run() == {"preload": (LOAD_S, ""), "again": (10.0, "")}


def test_a_hung_runner_answers_nothing_and_the_server_everything_else() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.ask(0.0, "before", "a", tokens=200)
    bench.at(1.0, bench.node.pause_runner)
    bench.ask(2.0, "during", "a")
    bench.at(50.0, bench.node.resume_runner)
    seen: list[tuple[str, ...]] = []
    bench.at(10.0, lambda: seen.append(bench.node.resident()))
    assert bench.run() == {"before": (pytest.approx(51.0), ""), "during": (pytest.approx(51.1), "")}
    assert seen == [("a",)]


def test_a_slow_gpu_slows_decoding_and_loading() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.at(0.0, bench.node.slow_gpu, 4.0)
    bench.ask(1.0, "hot", "a")
    bench.ask(1.0, "cold", "b")
    assert bench.run() == {"hot": (pytest.approx(1.4), ""), "cold": (pytest.approx(1.0 + 4 * LOAD_S + 0.4), "")}


def test_an_eviction_that_ends_a_fault_does_not_load_the_next_model_twice() -> None:
    bench = NodeBench()
    for model in ("a", "b"):
        bench.node.add_runner(model)
    bench.node.on_reload = bench.node.conditions_changed  # as where a fault lived in the runner that goes
    bench.ask(1.0, "third", "c")
    assert bench.run()["third"][1] == ""
    assert bench.node.resident() == ("b", "c")
