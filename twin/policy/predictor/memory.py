"""What a predictor has learnt of its nodes, for snapshots: whoever takes over does not start blind."""

from __future__ import annotations

from typing import Any, Final

from twin.policy.forecast import Forecast
from twin.policy.predictor.features import ModelPace, NodeFeatures
from twin.policy.predictor.predictor import FusedPredictor, NodePrediction, Predictor
from twin.policy.predictor.statistical import CLASSES
from twin.policy.state import frozen, thaw

FEATURE_MOMENTS: Final = frozenset({"updated_s", "sampled_s", "load_s"})
GIVEN: Final = frozenset({"window_s", "horizon_s"})
"""Of the parameters and the model, not of what was seen."""

PARTS: Final = frozenset({"tracks", "heat", "paces", "expected"})
"""Of the features and of their heat: objects of their own."""


def predictor_state(predictor: Predictor, now: float) -> dict[str, Any]:
    """By node: features, smoothed scores, and what is said of it. Empty where nothing is foreseen."""
    if not isinstance(predictor, FusedPredictor):
        return {}
    return {name: _node_state(each, now) for name, each in predictor.nodes.items()}


def _node_state(each: NodePrediction, now: float) -> dict[str, Any]:
    features = frozen(each.features, now, FEATURE_MOMENTS, GIVEN | PARTS)
    features["tracks"] = [frozen(track, now, ()) for track in each.features.tracks]
    heat = each.features.heat
    features["heat"] = {**frozen(heat, now, (), GIVEN | PARTS), "expected": frozen(heat.expected, now, ())}
    features["paces"] = {
        model: {
            "decode": frozen(pace.decode, now, ()),
            "unit_s": pace.unit_s,
            "prefill": frozen(pace.prefill, now, ()),
            "load": frozen(pace.load, now, ()),
            "probe": frozen(pace.probe, now, ()),
        }
        for model, pace in each.features.paces.items()
    }
    forecasts = [[it.failure, it.probability, it.horizon_s, it.lead_s, list(it.reasons)] for it in each.forecasts]
    scores = [list(each.statistical), list(each.patterns), list(each.logits)]
    return {"features": features, "forecasts": forecasts, "scores": scores, "warned": each.warned}


def _thaw_parts(features: NodeFeatures, now: float, state: dict[str, Any]) -> None:
    tracks = state["tracks"]
    if len(tracks) == len(features.tracks):
        for track, state_of_track in zip(features.tracks, tracks, strict=True):
            thaw(track, now, (), state_of_track)
    thaw(features.heat, now, (), {name: value for name, value in state["heat"].items() if name not in PARTS})
    thaw(features.heat.expected, now, (), state["heat"].get("expected", {}))
    for model, known in state["paces"].items():
        pace = features.paces[model] = ModelPace()
        thaw(pace.decode, now, (), known["decode"])
        pace.unit_s = float(known.get("unit_s", 0.0))
        thaw(pace.prefill, now, (), known["prefill"])
        thaw(pace.load, now, (), known["load"])
        thaw(pace.probe, now, (), known.get("probe", {}))


def restore_predictor(predictor: Predictor, now: float, state: dict[str, Any]) -> None:
    """Go on from what another one had learnt; nodes that are gone, and signals that are no more, are left out."""
    if not isinstance(predictor, FusedPredictor):
        return
    for name, known in state.items():
        each = predictor.nodes.get(name)
        if each is None:
            continue
        features = {name: value for name, value in known["features"].items() if name not in PARTS}
        thaw(each.features, now, FEATURE_MOMENTS, features)
        _thaw_parts(each.features, now, known["features"])
        each.statistical, each.patterns, each.logits = [list(scores) for scores in known["scores"]]
        each.warned = known["warned"]
        each.forecasts = [
            Forecast(name, failure, float(probability), float(horizon_s), float(lead_s), tuple(reasons))
            for failure, probability, horizon_s, lead_s, reasons in known["forecasts"]
            if failure in CLASSES
        ]
        each.due_s = now
    predictor.stale = True
