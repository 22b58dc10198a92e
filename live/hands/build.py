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
    """The hands of a configuration, the servers among them that we run ourselves, and the agents where nothing else is."""

    def __init__(
        self,
        api: OllamaApiHands,
        by_node: Mapping[str, Mapping[ActionKind, Hands]],
        supervisors: list[Supervisor],
        agents: AgentHands,
    ) -> None:
        super().__init__({"load": api, "unload": api, "pull": api, "copy": api}, by_node)
        self._supervisors = supervisors
        self._agents = agents

    def hand(self, kind: ActionKind, node: str) -> Hands | None:
        """The hand that is configured, else the agent that the node has by now."""
        return super().hand(kind, node) or (self._agents if kind in self._agents.kinds(node) else None)

    def kinds(self, node: str) -> frozenset[str]:
        """What can be done to a node by now."""
        return super().kinds(node) | self._agents.kinds(node)

    async def close(self) -> None:
        """Close every hand."""
        await super().close()
        await self._agents.close()

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

    `agents`: node to its agent's URL; who is added later has hands from then on. Raises `OperatorError` where a file of a
    secret cannot be read.
    """
    configured: dict[str, dict[ActionKind, Hands]] = {}
    supervisors: list[Supervisor] = []
    for node, address in addresses.items():
        own = by_node.get(node, HandsConfig())
        hands: dict[ActionKind, Hands] = {}
        restart = own.restart or everywhere.restart
        if restart is not None:
            hands["restart"] = _restart(node, address, restart, supervisors)
        kill_runner = own.kill_runner or everywhere.kill_runner
        if kill_runner is not None:
            hands["kill_runner"] = CommandHands({"kill_runner": kill_runner}, {node: address})
        elif restart is not None and restart.process is not None:
            hands["kill_runner"] = hands["restart"]
        configured[node] = hands
    return BuiltHands(OllamaApiHands(addresses), configured, supervisors, AgentHands(agents, agent_token))


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
