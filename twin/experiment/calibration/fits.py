"""Rates of a machine from the requests that it served: robust fits, with intervals from a bootstrap over blocks of time.

- Decode: a request's tokens are the sum over batch sizes of its exposure times the rate at that size, and so many for each
  prompt that was evaluated beside it: a runner counts the step under way, and the one that it shares with the batch, to
  the evaluation of a prompt. All are fitted over all requests with a loss that grows linearly beyond a token and a half
  (`scipy.optimize.least_squares`, soft_l1).
- Prefill: the time of prompts that no other prefill came into, without those steps of the batch, is so much at no tokens
  (which goes to the server's own time), so much a token, and so much for each pair of tokens, since each attends to all
  before it. Fitted is the time a token, none of the three below nothing, with the same kind of loss.
- Shared processors: so many nodes work at full speed as make the fit of the steps best.
- The server: what a request takes to its first token beyond way and prompt, over the share of the processor that its node
  had, whether a batch was at work, and its step; least squares of logarithms with the same kind of loss, and the spread
  that is left.
- Everything else is a median.

The bootstrap draws blocks of 20 s with replacement: requests of the same time depend on each other. Efron and Tibshirani,
*An Introduction to the Bootstrap*, 1993, chapter 8; percentile intervals of 95 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.experiment.calibration.occupancy import Numbers, Served, chosen, shared

BOOTSTRAPS = 100
ENOUGH_TOKENS = 200.0
"""Decoded at a batch size, to say anything of it."""
ENOUGH_PROMPTS = 100
"""Evaluated beside requests that decoded, to say for how many steps these went on."""
BESIDE_PROMPT_MAX = 4.0
ENOUGH_ALONE = 10
"""Prompts that no other came into, to say anything of them."""
PREFILL_NOISE = 0.1
"""Share of what a token usually takes beyond which a prompt's counts less."""
LEVEL_ENDS = (2.5, 97.5)
ROOM_MIN = 0.3
LOAD_S = 0.05
LOAD_TIMES = 10.0
SERVER_LEAST_S = 1e-4
"""A server that takes less is taken to need no time."""
SIGMA_ENDS = (15.87, 84.13)
"""Between them lie two standard deviations of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How fast a runner decodes."""

    steps_s: Numbers
    """Seconds of a step by batch size; nan where too little was seen."""
    beside_prompt: float
    """Steps for which a batch goes on while a prompt that joins it is evaluated."""
    cost: float
    """How badly both explain the tokens."""


def room(of: Served) -> float:
    """How many nodes of a host work at once at full speed (`cluster.hosts.room`): with that share the requests' tokens are
    explained best. nan where nodes share no host, or never worked at once."""
    from scipy.optimize import minimize_scalar  # noqa: PLC0415

    most = of.exposure_s.shape[2]
    if most < 2 or not of.exposure_s[:, :, 1:].any():
        return np.nan
    best = minimize_scalar(
        lambda it: decoding(shared(of, it)).cost, bounds=(ROOM_MIN, most), method="bounded", options={"xatol": 0.005}
    )
    return float(best.x)


def decoding(of: Served) -> Decoding:
    """The steps, of `shared` numbers where nodes share hosts."""
    from scipy.optimize import least_squares  # noqa: PLC0415  # dear to import

    exposure_s = of.exposure_s.sum(axis=2)
    steps_s = np.full(exposure_s.shape[1], np.nan)
    if not len(of):
        return Decoding(steps_s, 0.0, np.inf)
    mean_rate = of.steps.sum() / max(1e-9, exposure_s.sum())
    seen = np.flatnonzero(exposure_s.sum(axis=0) * mean_rate >= ENOUGH_TOKENS)
    if not seen.size:
        return Decoding(steps_s, 0.0, np.inf)
    design, start = exposure_s[:, seen], np.full(seen.size, mean_rate)
    most = np.full(seen.size, np.inf)
    if of.prompts_beside.sum() >= ENOUGH_PROMPTS:
        design = np.column_stack((design, of.prompts_beside))
        start, most = np.append(start, 0.5), np.append(most, BESIDE_PROMPT_MAX)
    fit = least_squares(
        lambda it: design @ it - of.steps,
        start,
        jac=lambda _it: design,
        bounds=(1e-6, most),
        loss="soft_l1",
        f_scale=1.5,
        x_scale=start,
    )
    steps_s[seen] = 1.0 / fit.x[: seen.size]
    return Decoding(steps_s, float(fit.x[-1]) if len(fit.x) > seen.size else 0.0, float(fit.cost))


class Prefill(NamedTuple):
    """What a prompt takes: so long at no tokens, for a token, and longer for each token before it; nan: nobody knows."""

    per_token_s: float
    start_s: float
    growth_s: float


def prefill(of: Served, steps: Decoding) -> Prefill:
    """What prompts take on a node of their own."""
    from scipy.optimize import least_squares  # noqa: PLC0415

    prompt_eval_s = of.prompt_eval_s.sum(axis=1)
    batch_s = steps.beside_prompt * _step_of_batch_s(of, steps)
    use = of.alone & (prompt_eval_s > 0.0) & (of.prompt_tokens > 0) & ~np.isnan(batch_s)
    tokens, took_s = of.prompt_tokens[use], prompt_eval_s[use] - batch_s[use]
    if len(tokens) < ENOUGH_ALONE:
        return Prefill(np.nan, np.nan, np.nan)
    each_s = took_s / tokens
    usual_s = float(np.median(each_s))
    if np.ptp(tokens) < 2 or usual_s <= 0.0:
        return Prefill(max(0.0, usual_s), 0.0, 0.0)
    # In units of what each usually comes to, so that no step of the search is out of proportion.
    middle = float(np.median(tokens))
    design = np.column_stack((np.ones(len(tokens)), middle / tokens, tokens / middle)) * usual_s
    fit = least_squares(
        lambda it: (design @ it - each_s) / usual_s,
        (0.9, 0.05, 0.05),
        bounds=(0.0, np.inf),
        loss="soft_l1",
        f_scale=PREFILL_NOISE,
    )
    per_token, start, growth = (fit.x * usual_s).tolist()
    return Prefill(per_token, start * middle, 2.0 * growth / middle)


def _step_of_batch_s(of: Served, decoding: Decoding) -> Numbers:
    """A step of the batch that each request came to; 0 where none was at work, nan where it is not known."""
    steps_s = np.concatenate(([0.0], decoding.steps_s))
    return steps_s[np.minimum(of.beside, len(steps_s) - 1)]


def least_load_s(waits_s: Numbers) -> float:
    """A request that says it waited longer than this for its model met a load: far longer than is usual here. What the
    server itself takes for a request is in that wait, too."""
    known = waits_s[np.isfinite(waits_s)]
    return max(LOAD_S, LOAD_TIMES * float(np.median(known))) if known.size else LOAD_S


def server(of: Served, decoding: Decoding) -> tuple[float, float, float, float]:
    """Time of the server itself for a request that waited for nothing, loads apart; what a request waits for beyond that to
    join a batch at work; how many steps of that batch; and the coefficient of variation of all that. nan where nothing is
    known. All take longer by the share of the processor that the node has.

    The times are means of a lognormal spread, as the twin draws it: fitted in logarithms, where it is even.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415

    step_s = _step_of_batch_s(of, decoding)
    use = ~np.isnan(of.server_s) & (of.load_s < least_load_s(of.load_s)) & ~np.isnan(step_s)
    if not use.any():
        return np.nan, np.nan, np.nan, np.nan
    usual_s = float(np.median(of.server_s[use]))
    if usual_s < SERVER_LEAST_S:
        return max(0.0, usual_s), 0.0, 0.0, 0.0
    use &= of.server_s > SERVER_LEAST_S
    share, joins = of.share[use], of.beside[use] > 0
    design = np.column_stack((1.0 / share, joins / share, step_s[use] / share))
    took = np.log(of.server_s[use])
    fit = least_squares(
        lambda it: np.log(design @ it) - took,
        (usual_s, 0.1 * usual_s, 0.1),
        bounds=((0.1 * SERVER_LEAST_S, 0.0, 0.0), np.inf),
        loss="soft_l1",
        f_scale=0.5,
        x_scale=(usual_s, usual_s, 1.0),
    )
    low, high = np.percentile(took - np.log(design @ fit.x), SIGMA_ENDS)
    variance = ((high - low) / 2.0) ** 2
    server_s, joining_s, joining_steps = (fit.x * np.exp(variance / 2.0)).tolist()
    if not joins.any():
        joining_s = joining_steps = 0.0
    return server_s, joining_s, joining_steps, float(np.sqrt(np.expm1(variance)))


def way_s(of: Served) -> float:
    """Time between the node and the gateway's client that nobody at the node accounts for, and the gateway's own."""
    quick_s = float(np.quantile(of.gateway_s, 0.05)) if len(of) else np.nan  # those that waited for a slot are above
    return max(0.0, float(np.median(of.way_s)) + quick_s) if len(of) else np.nan


def bootstrapped(of: Served, seed: int = 1) -> dict[str, list[list[float | None]]]:
    """Intervals of `room`, `decoding`, `prefill`, `server`, `way_s`: a [low, high] for each number."""
    random = np.random.default_rng(seed)
    blocks = np.unique(of.block)
    rows_of = {block: np.flatnonzero(of.block == block) for block in blocks.tolist()}
    makers: dict[str, Callable[[Served, Decoding], Any]] = {
        "decode_s": lambda _, found: found.steps_s,
        "beside_prompt": lambda _, found: found.beside_prompt,
        "prefill_s": prefill,
        "server": server,
        "way_s": lambda it, _: way_s(it),
    }
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("room", *makers)}
    for _ in range(BOOTSTRAPS):
        picked = random.choice(blocks, len(blocks))
        again = chosen(of, np.concatenate([rows_of[block] for block in picked.tolist()]))
        of_host = room(again)
        drawn["room"].append(np.atleast_1d(of_host))
        again = shared(again, 1.0 if np.isnan(of_host) else of_host)
        found = decoding(again)
        for name, maker in makers.items():
            drawn[name].append(np.atleast_1d(np.asarray(maker(again, found), dtype=np.float64)))
    return {name: _ends(np.stack(values)) for name, values in drawn.items()}


def _ends(values: NDArray[np.float64]) -> list[list[float | None]]:
    found: list[list[float | None]] = []
    for column in values.T:
        known = column[~np.isnan(column)]
        if known.size < BOOTSTRAPS // 2:
            found.append([None, None])
        else:
            low, high = np.percentile(known, LEVEL_ENDS)
            found.append([float(low), float(high)])
    return found
