"""The memory ledger: Ollama's rules one by one, and that nothing is lost or counted twice."""

from __future__ import annotations

import math
import random

import pytest

from tests.sim.worlds import LOAD_S, NodeBench
from twin.scenario.hardware import Hardware
from twin.scenario.memory import Placement, context_tier, fit, offload
from twin.sim.conditions import Conditions
from twin.sim.memory import RECOVERY_LIMIT_S, RETURN_RANGE_S, Memory, ReturnTimes
from twin.sim.node import ModelOnNode, OllamaNode

WAIT_S = 0.75


def machine(**changes: object) -> Hardware:
    """A GPU of 12 GiB that loads 1 GiB/s; a token takes 10 ms."""
    table = {
        "decode_ms": [10.0],
        "prefill_tokens_per_s": None,
        "vram_gib": 12,
        "load_gib_per_s": 1,
        "runner_start_s": 0.5,
    }
    return Hardware.model_validate(table | changes)


def ledger(hardware: Hardware | None = None, **changes: object) -> Memory:
    return Memory(hardware or machine(**changes), Conditions())


# -- where a model goes ---------------------------------------------------------------------------------------------


def test_a_model_alone_may_take_all_and_one_beside_others_four_fifths_of_what_is_free() -> None:
    assert fit(12.0, [12.0], alone=True) == Placement((12.0,))
    assert fit(9.6, [12.0], alone=False) == Placement((9.6,))
    assert fit(9.7, [12.0], alone=False) is None


def test_one_gpu_that_holds_it_all_is_preferred_and_of_these_the_emptiest() -> None:
    assert fit(8.0, [10.0, 12.0], alone=False) == Placement((0.0, 8.0))


def test_what_no_gpu_holds_alone_is_split_over_several() -> None:
    placement = fit(15.0, [10.0, 12.0], alone=True)
    assert placement == Placement((3.0, 12.0))
    assert placement.gpus == 2
    assert fit(18.0, [10.0, 12.0], alone=False) is None, "4/5 of 22 are 17.6"


def test_what_fits_nowhere_lies_in_part_in_main_memory_if_that_has_room() -> None:
    placement = offload(15.0, [10.0], ram_free_gib=6.0)
    assert placement == Placement((10.0,), 5.0)
    assert placement.offloaded_share == pytest.approx(1 / 3)
    assert offload(15.0, [10.0], ram_free_gib=4.0) is None


@pytest.mark.parametrize(
    ("vram_gib", "tokens"), [(8, 4096), (23.9, 4096), (24, 32_768), (47, 32_768), (48, 262_144), (141, 262_144)]
)
def test_the_context_that_ollama_chooses_goes_by_gpu_memory(vram_gib: float, tokens: int) -> None:
    assert context_tier(vram_gib) == tokens


def test_three_models_are_kept_for_each_gpu_and_three_without_one() -> None:
    assert ledger().max_models == 3
    assert ledger(gpus=2).max_models == 6
    assert ledger(kind="cpu").max_models == 3
    memory = ledger()
    for name in "abc":
        memory.take(name, memory.fit(0.5, 0.0) or pytest.fail("there is room"))
    assert memory.fit(0.5, 0.0) is None


# -- who takes it ---------------------------------------------------------------------------------------------------


def test_leaks_and_other_programs_count_as_used() -> None:
    memory = ledger(gpus=2)
    memory.conditions.set("fault", "vram_leaked_gib", 2.0)
    memory.conditions.set("fault", "vram_foreign_gib", 3.0)
    assert memory.free_gib(0.0) == [7.0, 7.0]
    assert memory.total_taken_gib(0.0) == 10.0
    memory.conditions.withdraw("fault")
    assert memory.free_gib(0.0) == [12.0, 12.0]


def test_each_unload_may_leave_something_behind_until_the_server_ends() -> None:
    memory = ledger()
    memory.conditions.set("fault", "vram_leaked_gib_per_unload", 0.3)
    for _ in range(20):
        memory.put("a", 5.0, 0.0)
        memory.release("a", 0.0)
    assert memory.free_gib(100.0) == [pytest.approx(12.0 - 20 * 0.3)]
    memory.server_ended()
    assert memory.free_gib(100.0) == [12.0]


def test_gpus_that_are_lost_have_no_room_for_what_comes_and_keep_what_they_have() -> None:
    memory = ledger()
    memory.put("here", 5.0, 0.0)
    memory.conditions.set("fault", "gpus_lost", 1.0)
    assert memory.fit(1.0, 0.0) == Placement((0.0,), 1.0), "main memory stands in, without a word"
    assert memory.vram_of_models_gib == 5.0


def test_of_two_gpus_of_which_one_is_lost_the_other_serves_on() -> None:
    memory = ledger(gpus=2)
    memory.conditions.set("fault", "gpus_lost", 1.0)
    assert memory.fit(5.0, 0.0) == Placement((5.0, 0.0))


def test_the_sums_are_those_of_the_placements_whatever_comes_and_goes() -> None:
    memory = ledger(gpus=3, ram_gib=40)
    draws = random.Random(7)
    now = 0.0
    for _ in range(500):
        now += draws.random()
        name = draws.choice("abcdef")
        if name in memory.placements:
            how = draws.randrange(3)
            if how == 0:
                memory.lose(name)
            elif how == 1:
                memory.abandon(name)
            else:
                memory.release(name, now)
            continue
        placement = memory.fit(draws.uniform(0.1, 60.0), now)
        if placement is not None:
            memory.take(name, placement)
        vram_gib = math.fsum(math.fsum(each.vram_gib) for each in memory.placements.values())
        assert memory.vram_of_models_gib == pytest.approx(vram_gib)
        assert memory.total_taken_gib(now) == pytest.approx(math.fsum(memory.taken_gib(now)))
        assert min(memory.free_gib(now + 10.0)) >= -1e-9
        assert memory.ram_free_gib() >= -6 * 0.6 - 1e-9, "only what runners need beside the models was not asked for"


# -- giving it back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("added_s", "wait_s"), [(0.0, 0.75), (0.1, 1.0), (1.0, 1.5), (5.0, 4.5), (5.6, 5.0)])
def test_the_wait_ends_at_the_first_poll_after_three_quarters_are_back(added_s: float, wait_s: float) -> None:
    memory = ledger()
    memory.conditions.set("fault", "vram_return_added_s", added_s)
    memory.put("a", 8.0, 0.0)
    assert memory.release("a", 0.0) == wait_s


def test_a_wait_that_ended_in_vain_leaves_the_next_load_with_less() -> None:
    memory = ledger()
    memory.conditions.set("fault", "vram_return_added_s", 9.0)
    memory.put("a", 8.0, 100.0)
    assert memory.release("a", 100.0) == RECOVERY_LIMIT_S
    assert memory.free_gib(105.0) == [12.0 - 8.0 * 0.5]
    assert memory.fit(10.0, 105.0) == Placement((8.0,), 2.0)
    assert memory.free_gib(110.0) == [12.0]


@pytest.mark.parametrize("kind", ["apple", "cpu"])
def test_shared_memory_needs_no_wait(kind: str) -> None:
    memory = ledger(kind=kind)
    memory.put("a", 8.0, 0.0)
    assert memory.release("a", 0.0) == 0.0
    memory.put("b", 8.0, 0.0)
    memory.lose("b")
    assert memory.clean_up_s("b") == 0.0


def test_a_runner_that_crashed_is_waited_for_in_vain_once() -> None:
    memory = ledger()
    memory.put("a", 8.0, 0.0)
    memory.lose("a")
    assert memory.free_gib(0.0) == [12.0]
    assert memory.clean_up_s("other") == 0.0
    assert memory.clean_up_s("a") == RECOVERY_LIMIT_S
    assert memory.clean_up_s("a") == 0.0


def test_a_drivers_times_are_drawn_for_each_node_by_name_and_give_the_usual_waits() -> None:
    times, other, again = ReturnTimes(1, "node-0"), ReturnTimes(1, "node-1"), ReturnTimes(1, "node-0")
    drawn = [times.next_s() for _ in range(200)]
    assert drawn == [again.next_s() for _ in range(200)]
    assert drawn != [other.next_s() for _ in range(200)]
    waits = []
    for each_s in drawn:
        memory = Memory(machine(), Conditions(), None, lambda each_s=each_s: each_s)  # type: ignore[misc]
        memory.put("a", 8.0, 0.0)
        waits.append(memory.release("a", 0.0))
    assert RETURN_RANGE_S[0] <= min(drawn) and max(drawn) <= RETURN_RANGE_S[1]
    assert set(waits) == {0.75, 1.0, 1.25, 1.5}


# -- in a node ------------------------------------------------------------------------------------------------------


def node_bench(hardware: Hardware, **memory_gib: float) -> NodeBench:
    """A node with models of that memory each, of which 1 GiB is KV cache."""
    bench = NodeBench(hardware=hardware)
    models = {name: ModelOnNode(name, gib - 1.0, gib, 4096) for name, gib in memory_gib.items()}
    bench.node = OllamaNode(bench.engine, "node-0", hardware, models, 1, 512, None)
    return bench


def test_the_fourth_model_evicts_one_though_there_is_room() -> None:
    bench = node_bench(machine(), a=1.5, b=1.5, c=1.5, d=1.5)
    for second, name in enumerate("abcd"):
        bench.ask(10.0 * second, name, name)
    ended = bench.run()
    assert ended["d"] == (pytest.approx(30.0 + WAIT_S + 0.5 + 0.5 + 0.1), "")
    assert bench.node.resident() == ("b", "c", "d")


def test_a_model_beside_others_evicts_where_it_would_take_more_than_four_fifths() -> None:
    bench = node_bench(machine(), a=5.0, b=6.0)
    bench.ask(0.0, "a", "a")
    bench.ask(10.0, "b", "b")
    ended = bench.run()
    assert bench.node.resident() == ("b",), "7 GiB were free, of which b may take 5.6"
    assert ended["b"] == (pytest.approx(10.0 + WAIT_S + 0.5 + 5.0 + 0.1), "")


def test_a_split_model_pays_for_each_further_gpu() -> None:
    bench = node_bench(machine(gpus=2, split_cost=0.04), a=20.0)
    bench.node.add_runner("a")
    bench.ask(0.0, "split", "a", tokens=100)
    assert bench.run()["split"] == (pytest.approx(1.04), "")
    assert bench.node.memory.placements["a"].vram_gib == (12.0, 8.0)


def test_a_model_that_found_too_little_gpu_memory_answers_as_ever_but_slowly() -> None:
    bench = node_bench(machine(cpu_slowdown=10.0), a=10.0)
    bench.node.conditions.set("neighbour", "vram_foreign_gib", 7.0)
    bench.ask(0.0, "slow", "a", tokens=100)
    bench.at(90.0, bench.node.conditions.withdraw, "neighbour")
    bench.ask(100.0, "as slow: it stays where it is", "a", tokens=100)
    bench.at(190.0, bench.node.unload, "a")
    bench.ask(200.0, "loaded anew", "a", tokens=100)
    ended = bench.run()
    slow_s = 1.0 * (0.5 + 0.5 * 10.0)
    assert ended["slow"] == (pytest.approx(9.5 + slow_s), "")
    assert ended["as slow: it stays where it is"] == (pytest.approx(100.0 + slow_s), "")
    assert ended["loaded anew"] == (pytest.approx(200.0 + 9.5 + 1.0), "")


def test_a_model_that_fits_nowhere_is_the_servers_error() -> None:
    bench = node_bench(machine(ram_gib=10.0), a=30.0, b=4.0)
    bench.ask(0.0, "b", "b")
    bench.ask(10.0, "a", "a")
    bench.ask(11.0, "b again", "b")
    ended = bench.run()
    assert ended["a"] == (10.0, "server_error")
    assert ended["b again"] == (pytest.approx(11.0 + 3.5 + 0.1), ""), "it had been evicted in vain"


def test_a_longer_context_needs_more_memory() -> None:
    bench = node_bench(machine(), a=6.0, b=5.0)
    bench.node.add_runner("b")
    bench.ask(0.0, "a", "a", context=8 * 4096)
    bench.run()
    assert bench.node.memory.placements["a"].total_gib == pytest.approx(5.0 + 8.0)
    assert bench.node.memory.placements["a"].ram_gib == pytest.approx(1.0)


def test_an_aborted_load_gives_its_memory_back() -> None:
    bench = NodeBench()
    bench.ask(0.0, "impatient", "a")
    bench.hang_up(3.0, "impatient")
    bench.at(1.0, lambda: seen.append(bench.node.vram_used_gib()))
    seen: list[float] = []
    bench.run()
    assert seen == [5.0]
    assert bench.node.vram_used_gib() == 0.0


def test_when_main_memory_and_swap_are_full_the_kernel_kills_the_largest_runner() -> None:
    bench = node_bench(machine(kind="cpu", ram_gib=32, swap_gib=4), a=3.0, b=6.0)
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.ask(0.0, "small", "a", tokens=1000)
    bench.ask(0.0, "large", "b", tokens=1000)

    def leak() -> None:
        bench.node.conditions.set("fault", "ram_leaked_gib", 24.0)
        bench.node.conditions_changed()

    bench.at(2.0, leak)
    ended = bench.run()
    assert ended["large"] == (2.0, "error_record")
    assert ended["small"] == (10.0, "")
    assert bench.node.resident() == ("a",)


def test_a_slow_disk_slows_loads_alone() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.node.conditions.set("fault", "load_speed_factor", 0.5)
    bench.ask(0.0, "hot", "a")
    bench.ask(0.0, "cold", "b")
    ended = bench.run()
    assert ended["hot"] == (pytest.approx(0.1), "")
    assert ended["cold"] == (pytest.approx(LOAD_S + 4.0 + 0.1), "")
