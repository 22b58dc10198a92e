"""The flags of a drill on an operator's own cluster, turned into what may be done to which node."""

from __future__ import annotations

from pathlib import Path

from live.controller.access import read_token
from live.gateway.config import ConfigError, load_hands, node_url
from live.rig.operator_cluster import OperatorNodes


def operator_nodes(urls: str, config: Path | None, allow_disruption: bool) -> OperatorNodes:
    """`--nodes URL,URL,...` with `--config FILE` and `--allow-disruption`. Raises `ConfigError`.

    A node of the file that has one of the URLs gives its agent and its own hands.
    """
    named: dict[str, str] = {}
    for index, text in enumerate(part.strip() for part in urls.split(",")):
        try:
            url = node_url(text) if "." in text or ":" in text else ""
        except ValueError as error:
            raise ConfigError(f"--nodes {urls}: {error}") from error
        if not url:
            raise ConfigError(
                f"--nodes {urls}: give real, emulated, or the URLs of your own nodes (http://HOST:PORT,...)"
            )
        if url in named.values():
            raise ConfigError(f"--nodes {urls}: {url} is there twice; name each node once")
        named[f"node-{index}"] = url
    settings = load_hands(config)
    by_url = {node.url: node for node in settings.nodes.values()}
    known = {name: by_url[url] for name, url in named.items() if url in by_url}
    return OperatorNodes(
        urls=named,
        hands=settings.hands,
        own_hands={name: node.hands for name, node in known.items() if node.hands is not None},
        agents={name: node.agent for name, node in known.items() if node.agent is not None},
        token=read_token(settings.token_file),
        allow_disruption=allow_disruption,
    )
