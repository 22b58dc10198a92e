"""One model by several names is one model."""

from __future__ import annotations

import pytest

from tests.policy.bench import cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.model_names import ModelNames, canonical, other_name
from twin.policy.parameters import preset
from twin.policy.vocabulary import RequestSpec


@pytest.mark.parametrize("name", ["m", "m:latest", "library/m", "registry.ollama.ai/library/m:latest"])
def test_every_spelling_is_the_same_model(name: str) -> None:
    assert canonical(name) == "m"
    assert ModelNames(["m:latest"]).of(name) == "m:latest"


@pytest.mark.parametrize("name", ["m", "llama3.1:8b"])
def test_another_name_is_spelt_differently_and_means_the_same(name: str) -> None:
    assert other_name(name) != name
    assert canonical(other_name(name)) == name


def test_a_copy_is_one_more_name_of_its_model_until_it_becomes_one_of_its_own() -> None:
    names = ModelNames(["m:latest"])
    names.add("copy", of="m:latest")
    assert (names.of("copy:latest"), list(names)) == ("m:latest", ["m:latest"])
    names.add("copy", of="copy")
    assert (names.of("copy:latest"), list(names)) == ("copy", ["m:latest", "copy"])


def routes(*, normalise: bool) -> list[str]:
    policy = ClusterPolicy(cluster(1, 1, 1), preset("default", {"router.normalise_names": normalise}))
    requests = [RequestSpec(number, name, 10, True, 0.0, 60.0) for number, name in enumerate(["m", "m:latest", "x"])]
    return [policy.route(0.0, request, 0).kind for request in requests]


def test_requests_by_two_names_wait_for_the_same_slot() -> None:
    assert routes(normalise=True) == ["dispatch", "wait", "shed"]


def test_where_names_are_taken_as_they_are_the_other_name_is_not_known() -> None:
    assert routes(normalise=False) == ["dispatch", "shed", "shed"]
