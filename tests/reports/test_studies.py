"""A study and a soak on the terminal say what stands in their files."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from reports.progress import progress_bar
from reports.studies import print_soak, print_study


def shown(show: Any, *arguments: Any) -> str:
    console = Console(width=200, record=True, force_terminal=False, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    show(*arguments, console)
    console.file.close()
    return console.export_text()


def point(nodes: int, lost: float, verdict: str, censored: int = 0) -> dict[str, Any]:
    return {
        "settings": {"cluster.nodes": nodes},
        "n": 5,
        "verdict": verdict,
        "expectations": [{"name": "requests_lost"}],
        "figures": {
            "requests_lost": {"mean": lost, "ci95": [lost - 1.0, lost + 1.0], "n": 5},
            "ttr_s": {"mean": 6.0, "ci95": None, "n": 1},
            "e2e_s": {"p95": None},
        },
        "recovery": {"ttr_s": {"n": 5, "censored": censored}},
    }


def study(**changes: Any) -> dict[str, Any]:
    return {
        "claim": "It holds.",
        "scenario": "small",
        "kind": "sweep",
        "seed": 40,
        "vary": {"cluster.nodes": [3, 5]},
        "replications": 5,
        "points": [point(3, 9.0, "fail", censored=4), point(5, 2.0, "pass")],
        "best": {"cluster.nodes": 5},
        "pairs": [],
        "notes": ["cluster.nodes=3: something"],
        "stopped": "",
    } | changes


def test_the_points_of_a_sweep_stand_with_their_intervals_and_the_best_is_marked() -> None:
    text = shown(print_study, study())
    rows = [line for line in text.splitlines() if line.startswith(("3 ", "5 "))]
    assert "9 [8 to 10]" in rows[0]
    assert "6 s (1 of 5 seen)" in rows[0], "what was not recovered from is not left out"
    assert "best" not in rows[0]
    assert "✓ pass ← best" in rows[1]
    assert "cluster.nodes=3: something" in text


def test_the_pairs_of_a_comparison_stand_with_their_difference_and_what_it_says() -> None:
    pair = {
        "variant": {"cluster.nodes": 5},
        "figure": "requests_lost",
        "difference": {"mean": -7.0, "ci95": [-8.0, -6.0], "n": 5},
        "censored": {"baseline": 0, "variant": 0},
        "p_adjusted": 0.0004,
        "verdict": "better",
    }
    unseen = pair | {"figure": "ttr_s", "difference": None, "p_adjusted": None, "verdict": "no difference shown"}
    text = shown(print_study, study(kind="compare", best=None, pairs=[pair, unseen]))
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("cluster.nodes=5 ")}
    assert all(word in lines["requests_lost"] for word in ("-7", "-8 to -6", "< 0.001", "better"))
    assert "no difference shown" in lines["ttr_s"]
    assert "baseline" in text


def test_what_is_not_complete_or_not_tight_is_said() -> None:
    until = {"figure": "e2e_s.p95", "half_width": 0.05, "relative": True, "reached": False}
    text = shown(print_study, study(stopped="interrupted after 3 of 10 runs", until=until))
    assert "Not complete: interrupted after 3 of 10 runs" in text
    assert "half width of e2e_s.p95 within 5 %: not reached, n = 5" in text


def test_a_soak_says_what_was_broken_and_how_to_see_it_again() -> None:
    found = {
        "scenario": "soak",
        "mode": "both",
        "seeds": 2000,
        "runs": {"faults": 9000, "requests": 1_000_000, "simulated_h": 160.0},
        "wall_s": 300.0,
        "wall_s_for_10000": 1500.0,
        "reached": [{"name": "restarted", "what": "the policy restarted a node", "seeds": 1800}],
        "never_reached": [],
        "invariants": {"replica_floor": 2},
        "broken": [],
        "folder": "runs/soak-1",
    }
    assert "✓ All 1 invariants held." in shown(lambda *it: print_soak(it[0], "ollamamax", it[1]), found)
    never = {"name": "drained", "what": "the policy drained a node", "seeds": 0}
    text = shown(
        lambda *it: print_soak(it[0], "ollamamax", it[1]),
        found | {"reached": [*found["reached"], never], "never_reached": ["drained"]},
    )
    assert "never reached" in text
    assert "Never reached, so nothing is known of it here: drained." in text
    broken = {
        "invariant": "replica_floor",
        "seeds": [17, 903],
        "first": "at 9.000 s: restarting node-0 leaves 0 replicas",
        "file": "runs/soak-1/replica-floor-seed-17.yaml",
        "faults": 1,
        "runs_to_shrink": 60,
    }
    text = shown(lambda *it: print_soak(it[0], "ollamamax", it[1]), found | {"broken": [broken]})
    assert "✗ replica_floor: broken by 2 seeds" in text
    assert "seed 17, at 9.000 s: restarting node-0 leaves 0 replicas" in text
    assert "ollamamax run runs/soak-1/replica-floor-seed-17.yaml" in text
    assert "10,000 seeds would take 1,500 s" in text


def test_where_there_is_no_terminal_no_bar_is_drawn(capsys: Any) -> None:
    with progress_bar("small: sweep", "runs") as on_result:
        on_result(1, 4)
    assert capsys.readouterr().err == ""


def test_a_mean_difference_that_leaves_out_what_was_not_seen_to_the_end_says_so() -> None:
    pair = {
        "baseline": {"cluster.nodes": 3},
        "variant": {"cluster.nodes": 5},
        "figure": "ttr_s",
        "difference": {"mean": -2.0, "ci95": [-3.0, -1.0], "n": 3},
        "p_adjusted": 0.03,
        "censored": {"baseline": 2, "variant": 0},
        "verdict": "better",
    }
    text = " ".join(shown(print_study, study(kind="compare", pairs=[pair])).split())
    assert "not seen to the end in 2 runs of the baseline and 0 of the variant; judged by a sign test" in text
    seen = " ".join(shown(print_study, study(pairs=[pair | {"censored": {"baseline": 0, "variant": 0}}])).split())
    assert "sign test" not in seen
    one = study(points=[point(3, 9.0, "fail") | {"n": 1}], best=None)
    assert "1 run at 1 point," in shown(print_study, one)
