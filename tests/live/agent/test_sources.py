"""What the agent reads: this very machine, recorded answers of GPUs, and nothing where there is nothing."""

from __future__ import annotations

import asyncio
import json
import plistlib
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from live.agent.amd import AmdGpus
from live.agent.apple import AppleGpu
from live.agent.kernel import Clock, KernelLog, offset_s
from live.agent.machine import Machine
from live.agent.nvidia import NvidiaGpus
from live.agent.ollama import OllamaApi, OllamaLog, OllamaProcesses
from live.agent.sources import Collector, Values
from live.rig.processes import free_port
from tests.live.conftest import MODEL, MakeNode
from tests.live.gateway.doubles import StubNode, answers
from twin.record.telemetry_columns import SOURCES, TELEMETRY_COLUMNS, TELEMETRY_NAMES

GIB = 1 << 30


def test_every_column_has_a_unit_a_meaning_and_a_source_that_is_named() -> None:
    assert len(set(TELEMETRY_NAMES)) == len(TELEMETRY_NAMES) == 25
    for column in TELEMETRY_COLUMNS:
        assert column.unit
        assert column.meaning
        assert column.sources
        assert set(column.sources) <= set(SOURCES)


# -- this machine -------------------------------------------------------------------------------------------------


def test_the_machine_is_read_as_psutil_and_the_kernel_say(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "models" / "not yet there")
    first = machine.read()
    assert first["memory_total_gib"] == pytest.approx(psutil.virtual_memory().total / GIB)
    used = first["memory_used_gib"]
    assert used is not None
    assert 0.0 < used < psutil.virtual_memory().total / GIB
    assert first["disk_free_gib"] == pytest.approx(psutil.disk_usage(str(tmp_path)).free / GIB, rel=0.05)
    assert first["disk_read_mib_per_s"] is None, "a rate needs two readings"
    assert first["uptime_s"] == pytest.approx(time.time() - psutil.boot_time(), abs=5)


def test_a_busy_processor_is_seen(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    busy = machine.read()["processor_utilisation"]
    assert busy is not None
    assert 0.5 / psutil.cpu_count() < busy <= 1.0  # one of the cores at least half


def test_the_clock_is_null_while_nobody_keeps_it_and_has_the_sign_of_an_error() -> None:
    assert offset_s(1500, 0) == pytest.approx(-0.0015)
    assert offset_s(1500, 0x2000) == pytest.approx(-1.5e-6)
    assert offset_s(1500, 0x0040) is None
    value = Clock().read()["clock_offset_s"]
    assert value is None or abs(value) < 60


def test_gpu_faults_in_the_kernels_log_are_counted_once(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("6,1,1,-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n4,2,2,-;eth0: link is up\n")
    kernel = KernelLog(log)
    assert kernel.read() == {"gpu_fault_events": 1.0}
    with log.open("a") as file:
        file.write("3,3,3,-;amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1\n3,4,4,-;amdgpu: GPU")
    assert kernel.read() == {"gpu_fault_events": 2.0}
    with log.open("a") as file:
        file.write(" reset begin!\n")
    assert kernel.read() == {"gpu_fault_events": 3.0}
    kernel.close()
    assert KernelLog(tmp_path / "none").read() == {"gpu_fault_events": None}


# -- GPUs ---------------------------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


class RecordedNvml:
    """Two data-centre cards, in the forms that NVML gives: per cent, bytes, milliwatts, MHz, counts."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0

    def __init__(self, *, ecc: bool = True, lost: bool = False) -> None:
        self.ecc = ecc
        self.lost = lost
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.lost:
            raise NVMLError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=[90, 30][handle], memory=[50, 10][handle])

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(total=80 * GIB, used=[40, 2][handle] * GIB, free=0)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return [71, 44][handle]

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int:
        return [1980, 345][handle]

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return [512_345, 70_655][handle]

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, error_type: int, counter_type: int) -> int:
        if not self.ecc:
            raise NVMLError("Not Supported")
        return [[3, 1], [0, 2]][error_type][handle]


def test_nvidia_cards_are_read_as_one() -> None:
    assert NvidiaGpus(RecordedNvml()).read() == {
        "gpu_utilisation": pytest.approx(0.6),
        "vram_used_gib": 42.0,
        "vram_total_gib": 160.0,
        "gpu_temperature_c": 71.0,
        "gpu_clock_mhz": 345.0,
        "gpu_power_w": pytest.approx(583.0),
        "gpu_errors_corrected": 4.0,
        "gpu_errors_uncorrected": 2.0,
    }


def test_what_a_card_does_not_support_is_null_and_not_zero() -> None:
    read = NvidiaGpus(RecordedNvml(ecc=False)).read()
    assert read["gpu_errors_corrected"] is None
    assert read["gpu_temperature_c"] == 71.0


async def test_a_lost_gpu_leaves_its_columns_null_and_the_driver_is_opened_anew() -> None:
    nvml = RecordedNvml()
    collector = Collector([NvidiaGpus(nvml)])
    assert (await collector.sample())["gpu_power_w"] is not None
    nvml.lost = True
    assert (await collector.sample())["gpu_power_w"] is None
    assert nvml.open == 0
    nvml.lost = False
    assert (await collector.sample())["gpu_power_w"] is not None


def amd_card(root: Path, name: str, **files: str) -> None:
    device = root / name / "device"
    (device / "hwmon" / "hwmon3").mkdir(parents=True)
    (device / "ras").mkdir()
    (device / "vendor").write_text("0x1002\n")
    for path, text in files.items():
        (device / path.replace("__", "/")).write_text(f"{text}\n")


def test_an_amd_card_is_read_from_its_files_and_what_is_absent_is_null(tmp_path: Path) -> None:
    amd_card(
        tmp_path,
        "card1",
        gpu_busy_percent="97",
        mem_info_vram_used=str(12 * GIB),
        mem_info_vram_total=str(24 * GIB),
        hwmon__hwmon3__temp1_input="83000",
        hwmon__hwmon3__freq1_input="2300000000",
        hwmon__hwmon3__power1_average="291000000",
        ras__umc_err_count="ue: 1\nce: 12",
    )
    (tmp_path / "card1-DP-1" / "device").mkdir(parents=True)
    assert AmdGpus(tmp_path).read() == {
        "gpu_utilisation": 0.97,
        "vram_used_gib": 12.0,
        "vram_total_gib": 24.0,
        "gpu_temperature_c": 83.0,
        "gpu_clock_mhz": 2300.0,
        "gpu_power_w": 291.0,
        "gpu_errors_corrected": 12.0,
        "gpu_errors_uncorrected": 1.0,
    }
    amd_card(tmp_path, "card2", gpu_busy_percent="3")
    both = AmdGpus(tmp_path).read()
    assert both["gpu_utilisation"] == pytest.approx(0.5)
    assert both["vram_used_gib"] is None, "the sum of one of two cards would be a wrong one"


def test_an_apple_chip_is_read_from_powermetrics() -> None:
    sample = {"elapsed_ns": 200_000_000, "gpu": {"idle_ratio": 0.25, "freq_hz": 1398.0, "gpu_energy": 3000}}
    read = AppleGpu(lambda: plistlib.dumps(sample) + b"\0").read()
    assert read == {"gpu_utilisation": 0.75, "gpu_clock_mhz": 1398.0, "gpu_power_w": pytest.approx(15.0)}
    empty = AppleGpu(lambda: plistlib.dumps({"elapsed_ns": 1})).read()
    assert set(empty.values()) == {None}


# -- Ollama -------------------------------------------------------------------------------------------------------


async def test_resident_models_and_their_expiry_are_read() -> None:
    node = StubNode()
    models = [
        {"name": "a", "size_vram": 2 * GIB, "expires_at": "2026-11-24T10:00:00.123456789Z"},
        {"name": "b", "size_vram": 3 * GIB, "expires_at": "2318-01-01T00:00:00+00:00"},
    ]
    node.will(answers(200, json.dumps({"models": models}).encode()), answers(200, b'{"models":[]}'), answers(500, b""))
    await node.start()
    api = OllamaApi(node.address, now=lambda: 1795514460.0)  # 2026-11-24T10:01:00Z
    assert await api.read() == {
        "ollama_resident_models": 2.0,
        "ollama_vram_gib": 5.0,
        "ollama_oldest_expiry_s": pytest.approx(59.876544, abs=1e-3),
    }
    none = {"ollama_resident_models": 0.0, "ollama_vram_gib": 0.0, "ollama_oldest_expiry_s": None}
    assert await api.read() == none
    assert await api.read() == {}
    await node.stop()
    assert await api.read() == {}
    await api.close()


def test_error_lines_are_counted_from_now_on_and_over_rotations(tmp_path: Path) -> None:
    path = tmp_path / "ollama.log"
    path.write_text("level=ERROR before the agent\n")
    log = OllamaLog(path)
    assert log.read() == {"ollama_error_lines": 0.0}
    with path.open("a") as file:
        file.write('time=x level=ERROR msg="x"\n[GIN] 2026/11/24 | 500 | 2ms |\n[GIN] 2026 | 200 | 5003ms |\n')
    assert log.read() == {"ollama_error_lines": 2.0}
    path.rename(tmp_path / "ollama.log.1")
    path.write_text("panic: x\nlevel=INFO\n")
    assert log.read() == {"ollama_error_lines": 3.0}
    assert OllamaLog(tmp_path / "none").read() == {"ollama_error_lines": None}


def test_the_process_that_listens_there_is_found_with_its_files_and_children() -> None:
    port = free_port()
    code = f"import socket,subprocess; s=socket.create_server(('127.0.0.1',{port})); subprocess.run(['sleep','30'])"
    with subprocess.Popen([sys.executable, "-c", code]) as server:
        try:
            processes = OllamaProcesses(f"http://127.0.0.1:{port}")
            until_s = time.monotonic() + 10
            while processes.read().get("ollama_processes") != 2.0:
                assert time.monotonic() < until_s
                time.sleep(0.02)
            read = processes.read()
            assert read["open_files"] == psutil.Process(server.pid).num_fds()
            assert read["ollama_rss_gib"] == pytest.approx(psutil.Process(server.pid).memory_info().rss / GIB, rel=0.3)
            assert processes.runners() == []
        finally:
            for child in psutil.Process(server.pid).children():
                child.kill()
            server.kill()
    assert OllamaProcesses(f"http://127.0.0.1:{port}").read() == {}


@pytest.mark.real
async def test_a_real_ollama_is_read_with_its_runner(make_node: MakeNode) -> None:
    node = await make_node()
    processes, api = OllamaProcesses(node.address), OllamaApi(node.address)
    from live.hands.ollama_api import OllamaApiHands
    from twin.policy.vocabulary import Action

    hands = OllamaApiHands({"a": node.address})
    await hands.perform(Action(0, "load", "a", MODEL, "", 60.0, 0.0))
    await hands.close()
    server = processes.server()
    assert server is not None
    assert server.pid == node.pids()[0]
    assert [runner.pid for runner in processes.runners()] == list(node.runner_pids())
    assert processes.read()["ollama_processes"] == 2.0
    assert (await api.read())["ollama_resident_models"] == 1.0
    await api.close()


# -- together -----------------------------------------------------------------------------------------------------


class Breaks:
    def read(self) -> Values:
        raise OSError("no such device")


class Late:
    async def read(self) -> Values:
        await asyncio.sleep(0)
        return {"ollama_resident_models": 3.0}


async def test_a_source_that_breaks_leaves_the_rest_alone(tmp_path: Path) -> None:
    sample = await Collector([Breaks(), Machine(tmp_path)], [Late()]).sample()
    assert tuple(sample) == TELEMETRY_NAMES
    assert sample["gpu_power_w"] is None
    assert sample["memory_total_gib"] is not None
    assert sample["ollama_resident_models"] == 3.0
