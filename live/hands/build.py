"""Makes the hands that a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from live.hands.agent import AgentHands
from live.hands.command import CommandHands
from live.hands.config import HandsConfig, RestartConfig, read_secret
from live.hands.kubernetes import ApiServer, KubernetesHands, Workload
from live.hands.ollama_api import OllamaApiHands
from live.hands.process import plain_environment
from live.hands.protocol import Hands
from live.hands.router import HandsByKind
from live.hands.supervisor import SupervisedHands, Supervisor
from live.hands.systemd import SystemdHands, Unit
from live.hands.webhook import Webhook, WebhookHands
from twin.errors import OperatorError
from twin.policy.vocabulary import ActionKind


class BuiltHands(HandsByKind):
    """The hands of a configuration, and the servers among them that we run ourselves."""

    def __init__(
        self,
        api: OllamaApiHands,
        restart: Mapping[str, Hands],
        kill_runner: Mapping[str, Hands],
        supervisors: list[Supervisor],
    ) -> None:
        everywhere: dict[ActionKind, Hands] = {"load": api, "unload": api, "pull": api, "copy": api}
        by_node: dict[str, dict[ActionKind, Hands]] = {node: {"restart": hand} for node, hand in restart.items()}
        for node, hand in kill_runner.items():
            by_node.setdefault(node, {})["kill_runner"] = hand
        super().__init__(everywhere, by_node)
        self._supervisors = supervisors

    async def start(self) -> None:
        """Start the servers that are processes of our own. Raises `ProcessFailed`."""
        for supervisor in self._supervisors:
            await supervisor.start()


def build_hands(
    addresses: Mapping[str, str],
    everywhere: HandsConfig,
    by_node: Mapping[str, HandsConfig],
    agents: Mapping[str, str],
    agent_token: str,
) -> BuiltHands:
    """The hands for these nodes: what is configured for the node, or for all, or else its agent.

    `agents`: node to its agent's URL. Raises `OperatorError` where a file of a secret cannot be read.
    """
    restart: dict[str, Hands] = {}
    kill_runner: dict[str, Hands] = {}
    supervisors: list[Supervisor] = []
    for node, address in addresses.items():
        own = by_node.get(node)
        config = (own.restart if own is not None else None) or everywhere.restart
        if config is not None:
            restart[node] = _restart(node, address, config, supervisors)
        elif node in agents:
            restart[node] = AgentHands({node: agents[node]}, agent_token)
        if own is not None and own.kill_runner is not None:
            kill_runner[node] = CommandHands({"kill_runner": own.kill_runner}, {node: address})
        elif everywhere.kill_runner is not None:
            kill_runner[node] = CommandHands({"kill_runner": everywhere.kill_runner}, {node: address})
        elif isinstance(restart.get(node), SupervisedHands):
            kill_runner[node] = restart[node]
        elif node in agents:
            kill_runner[node] = AgentHands({node: agents[node]}, agent_token)
    return BuiltHands(OllamaApiHands(addresses), restart, kill_runner, supervisors)


def _restart(node: str, address: str, config: RestartConfig, supervisors: list[Supervisor]) -> Hands:
    here = {node: address}
    if config.command is not None:
        return CommandHands({"restart": config.command}, here)
    if config.systemd is not None:
        unit = config.systemd
        return SystemdHands({node: Unit(unit.unit, unit.host, unit.user, unit.kill_after_s)}, here)
    if config.webhook is not None:
        hook = config.webhook
        return WebhookHands(Webhook(hook.url, _secret(hook.secret_file), hook.timeout_s, hook.tries), here)
    if config.kubernetes is not None:
        cluster = config.kubernetes
        default = ApiServer()
        server = ApiServer(
            cluster.server or default.url, cluster.token_file or default.token_file, cluster.ca_file or default.ca_file
        )
        return KubernetesHands(server, {node: Workload(cluster.way, cluster.name, cluster.namespace)}, here)
    process = config.process
    assert process is not None, "the configuration has exactly one way"
    host = address.partition("://")[2]
    supervisor = Supervisor(
        node,
        process.command,
        url=address,
        log=process.log,
        environment={**plain_environment(), **_home(), "OLLAMA_HOST": host, **process.environment},
        start_limit_s=process.start_limit_s,
    )
    supervisors.append(supervisor)
    return SupervisedHands({node: supervisor})


def _home() -> dict[str, str]:
    """Ollama keeps its models below the home folder."""
    return {"HOME": str(Path.home())}


def _secret(path: Path) -> bytes:
    try:
        return read_secret(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OperatorError(f"{path}: the secret cannot be read: {reason}") from error
