"""The model file: one JSON object of numbers and names, with a digest. Nothing in it is executed when it is read.

Keys: `format`, `version`, `digest` (sha256 of the canonical JSON of all the rest), `features` and `classes` (in order),
`horizon_s`, `window_s`, `interval_s`, `ensembles` (see `twin.policy.predictor.model.Ensemble`), `fusion` (set of families to
four weights a class), `lead_s` (a class's mean time to failure), `data` (what it was trained on), `figures` (on calibration
worlds).
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.policy.parameters import Parameters
from twin.policy.predictor.features import FEATURES
from twin.policy.predictor.model import Ensemble, Fusion, Model
from twin.policy.predictor.statistical import CLASSES

FORMAT = "ollamamax-predictor"
VERSION = 1
SHIPPED = Path(__file__).parent / "models" / "default.json"
FAMILY_SETS = range(1, 8)


def digest_of(document: dict[str, Any]) -> str:
    """sha256 (hex) of the document without its digest."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write(document: dict[str, Any], path: Path) -> None:
    """Write a model file. Raises `OperatorError`."""
    whole = {**document, "digest": digest_of(document)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"--out {path}: {error.strerror}; name a file that can be written") from error


def read(path: Path) -> dict[str, Any]:
    """A model file, looked over. Raises `OperatorError` in one line where it is damaged or made for other features."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}; `ollamamax train --out {path}` makes one") from error
    except ValueError as error:
        raise OperatorError(f"{path} is no model file ({error}); `ollamamax train --out FILE` makes one") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise OperatorError(f"{path} is no model file of OllamaMax; `ollamamax train --out FILE` makes one")
    if document.get("version") != VERSION:
        raise OperatorError(
            f"{path}: model format {document.get('version')}, this version reads {VERSION}; train it again"
        )
    if document.get("digest") != digest_of(document):
        raise OperatorError(f"{path}: its content is not what its digest says; it is damaged, fetch or train it again")
    for key, ours in (("features", FEATURES), ("classes", CLASSES)):
        if tuple(document.get(key, ())) != tuple(ours):
            raise OperatorError(f"{path}: its {key} are not those of this version; train it again (`ollamamax train`)")
    return document


def model_of(document: dict[str, Any], path: Path = SHIPPED) -> Model:
    """The model of a document that was looked over. Raises `OperatorError` where a part of it is missing or impossible."""
    try:
        ensembles = [_ensemble(each) for each in document["ensembles"]]
        fusion = {
            int(families): [Fusion(*(float(it) for it in weights)) for weights in by_class]
            for families, by_class in document["fusion"].items()
        }
        lead_s = [float(it) for it in document["lead_s"]]
        if not len(ensembles) == len(lead_s) == len(CLASSES) or sorted(fusion) != list(FAMILY_SETS):
            raise ValueError("a class or a set of families is missing")
        return Model(
            str(document["digest"]),
            float(document["horizon_s"]),
            float(document["window_s"]),
            float(document["interval_s"]),
            ensembles,
            fusion,
            lead_s,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OperatorError(f"{path}: the model cannot be used ({error}); train it again") from error


def _ensemble(said: dict[str, Any]) -> Ensemble:
    feature = [int(it) for it in said["feature"]]
    left, right = [int(it) for it in said["left"]], [int(it) for it in said["right"]]
    for node, asked in enumerate(feature):
        # A child comes after its parent, so that every walk ends.
        if asked >= len(FEATURES) or (asked >= 0 and not node < min(left[node], right[node]) < len(feature)):
            raise ValueError(f"node {node} is impossible")
        if asked >= 0 and max(left[node], right[node]) >= len(feature):
            raise ValueError(f"node {node} is impossible")
    roots = [int(it) for it in said["roots"]]
    if any(not 0 <= root < len(feature) for root in roots):
        raise ValueError("a tree has no root")
    return Ensemble(
        float(said["base"]),
        roots,
        feature,
        [float(it) for it in said["threshold"]],
        left,
        right,
        [bool(it) for it in said["missing_left"]],
    )


@functools.cache
def load(path: Path = SHIPPED) -> Model:
    """The model of a file; the shipped one unless another is named. Raises `OperatorError`."""
    return model_of(read(path), path)


def model_for(parameters: Parameters) -> Model | None:
    """The model that a policy with these parameters needs; None where it foresees nothing."""
    return load() if parameters.predictor.enabled else None
