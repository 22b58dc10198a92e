"""A node's Ollama as a workload of Kubernetes: restarted through the API server.

Three ways, as the workload needs: `rollout` (what `kubectl rollout restart` does: a new annotation on the pod template),
`delete_pod` (the controller that owns the pod makes a new one) and `scale` (to no replica and back: the old pod is gone
before the new one asks for the GPU). Each waits until Kubernetes says that the new pod is ready.

Paths and fields: the Kubernetes API reference of apps/v1 Deployment, autoscaling/v1 Scale and v1 Pod.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import aiohttp

from live.controller.transport import TooLong, plain_reason, read_whole
from live.hands.placeholders import filled
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

ANSWER_LIMIT_BYTES = 4 << 20
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token, the CA and the namespace of its own service account."""

Way: TypeAlias = Literal["rollout", "delete_pod", "scale"]


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The API server, and who we are there. The files are read at each call: Kubernetes renews tokens."""

    url: str = "https://kubernetes.default.svc"
    token_file: Path = SERVICE_ACCOUNT / "token"
    ca_file: Path = SERVICE_ACCOUNT / "ca.crt"
    timeout_s: float = 10.0  # of one call
    poll_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    """A node's workload. `{node}` and `{host}` may stand in each text."""

    way: Way
    name: str  # of the deployment; of the pod for delete_pod
    namespace: str = "default"


class KubernetesHands:
    """Restarts workloads through the API server."""

    def __init__(self, server: ApiServer, workloads: Mapping[str, Workload], addresses: Mapping[str, str]) -> None:
        self._server = server
        self._workloads = workloads
        self._addresses = addresses
        self._session: aiohttp.ClientSession | None = None

    async def perform(self, action: Action) -> HandResult:
        """Restart the node's workload; done once Kubernetes says that it is ready."""
        workload = self._workloads.get(action.node)
        if action.kind != "restart" or workload is None:
            raise HandError(f"{action.node} has no workload of Kubernetes to {action.kind}")
        address = self._addresses.get(action.node, "")
        name = quote(filled(workload.name, action, address), safe="")
        namespace = quote(filled(workload.namespace, action, address), safe="")
        try:
            if workload.way == "delete_pod":
                return await self._delete_pod(f"/api/v1/namespaces/{namespace}/pods/{name}", name)
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
            if workload.way == "rollout":
                return await self._roll_out(path, name)
            return await self._scale(path, name)
        except (aiohttp.ClientError, TimeoutError, OSError, TooLong) as error:
            raise HandError(f"{self._server.url}: {plain_reason(error)}") from error

    async def close(self) -> None:
        """Close what is still open."""
        if self._session is not None:
            await self._session.close()

    # -- the three ways --------------------------------------------------------------------------------------------

    async def _roll_out(self, path: str, name: str) -> HandResult:
        annotation = {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat(timespec="seconds")}
        change = {"spec": {"template": {"metadata": {"annotations": annotation}}}}
        changed = await self._call("PATCH", path, change)
        generation = int(changed.get("metadata", {}).get("generation", 0))
        await self._until_rolled_out(path, generation)
        return HandResult("done", f"deployment {name} is rolled out")

    async def _until_rolled_out(self, path: str, generation: int) -> None:
        """As `kubectl rollout status` sees it: observed, all replicas new, none of the old left, all available."""
        while True:
            deployment = await self._call("GET", path)
            status = deployment.get("status", {})
            wanted = int(deployment.get("spec", {}).get("replicas", 1))
            counts = [int(status.get(key, 0)) for key in ("updatedReplicas", "replicas", "availableReplicas")]
            if int(status.get("observedGeneration", 0)) >= generation and counts == [wanted] * 3:
                return
            for condition in status.get("conditions", []):
                if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
                    raise HandError(f"the deployment does not get ready: {condition.get('message', '')}")
            await asyncio.sleep(self._server.poll_s)

    async def _scale(self, path: str, name: str) -> HandResult:
        scale = await self._call("GET", f"{path}/scale")
        before = int(scale.get("spec", {}).get("replicas", 0))
        if not before:
            raise HandError(f"deployment {name} has no replicas, so there is nothing to restart; scale it up first")
        try:
            await self._call("PATCH", f"{path}/scale", {"spec": {"replicas": 0}})
            while True:
                left = await self._call("GET", f"{path}/scale")
                if not int(left.get("status", {}).get("replicas", 0)):
                    break
                await asyncio.sleep(self._server.poll_s)
        finally:  # whoever is late or cancelled must not leave the node scaled away
            await asyncio.shield(self._call("PATCH", f"{path}/scale", {"spec": {"replicas": before}}))
        deployment = await self._call("GET", path)
        await self._until_rolled_out(path, int(deployment.get("metadata", {}).get("generation", 0)))
        return HandResult("done", f"deployment {name} went from {before} replicas to 0 and back")

    async def _delete_pod(self, path: str, name: str) -> HandResult:
        pod = await self._call("GET", path)
        old = pod.get("metadata", {}).get("uid")
        owners = [str(owner.get("uid")) for owner in pod.get("metadata", {}).get("ownerReferences", [])]
        if not owners:
            raise HandError(f"pod {name} belongs to no controller, so nothing would make it anew")
        await self._call("DELETE", path)
        pods = path.rsplit("/", 1)[0]
        while True:
            for other in (await self._call("GET", pods)).get("items", []):
                about = other.get("metadata", {})
                ours = {str(owner.get("uid")) for owner in about.get("ownerReferences", [])} & set(owners)
                if ours and about.get("uid") != old and "deletionTimestamp" not in about and _is_ready(other):
                    return HandResult("done", f"pod {about.get('name')} stands in for {name}")
            await asyncio.sleep(self._server.poll_s)

    # -- the API ---------------------------------------------------------------------------------------------------

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call; the object of its answer. Raises `HandError` with the API server's own words."""
        try:
            token = self._server.token_file.read_text(encoding="utf-8").strip()
            context = ssl.create_default_context(cafile=self._server.ca_file) if self._is_https() else None
        except (OSError, ssl.SSLError) as error:
            raise HandError(f"the token or the CA of Kubernetes cannot be read: {error}") from error
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/strategic-merge-patch+json"
            if path.endswith("/scale"):  # a subresource has no patch strategies of its own
                headers["Content-Type"] = "application/merge-patch+json"
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._server.timeout_s), cookie_jar=aiohttp.DummyCookieJar()
            )
        data = json.dumps(body).encode() if body is not None else None
        async with self._session.request(
            method,
            self._server.url.rstrip("/") + path,
            data=data,
            headers=headers,
            ssl=context if context is not None else True,
            allow_redirects=False,
        ) as response:
            answer = await read_whole(response, ANSWER_LIMIT_BYTES)
        try:
            said = json.loads(answer)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise HandError(f"{self._server.url} answered {response.status} without an object; is it a Kubernetes API?")
        if not 200 <= response.status < 300:
            raise HandError(f"{method} {path} gave {response.status}: {said.get('message', 'no message')}")
        return said

    def _is_https(self) -> bool:
        return self._server.url.startswith("https://")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)
