"""What clips take: counters and sensors planted as files, memory that a test really takes, a driver that a test plays."""

from __future__ import annotations

import mmap
import sys
import threading
import time
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bench.resources.conditions import ConditionsWatch, cpu_clock, temperatures, throttle_count
from edgereel.bench.resources.memory import POINTS, MemorySampler, thinned
from edgereel.bench.resources.nvml import Nvml
from edgereel.bench.resources.power import (
    EnergyCounter,
    PowerMeter,
    PowerSource,
    find_source,
    jetson_rails,
    rapl_counters,
)
from edgereel.core.errors import MissingExtraError


def plant(root, **files):
    """Write files below a root; __ in a name stands for /."""
    for name, value in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def zone(root, place, name, energy, largest=1_000_000):
    folder = root / "sys/class/powercap" / place
    folder.mkdir(parents=True)
    plant(folder, name=name, energy_uj=energy, max_energy_range_uj=largest)
    return folder


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rapl_counts_packages_and_memory_but_not_what_is_inside_them(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 50)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 999_000)
    clock = Clock()
    meter = PowerMeter(find_source(False, tmp_path), clock=clock)
    meter.look()
    for second, (a, b, c) in enumerate([(400_100, 400_000, 999_500), (600_100, 800_000, 500)], start=1):
        plant(package, energy_uj=a)
        plant(core, energy_uj=b)
        plant(memory, energy_uj=c)  # started again from 0 after 1 J
        clock.now = float(second)
        meter.look()
    power = meter.result(clips=4)
    assert power.source == "rapl"
    assert power.average_watts == pytest.approx((0.6 + 0.0015) / 2)
    assert power.peak_watts == pytest.approx(0.4005)
    assert power.joules_per_clip == pytest.approx(0.6015 / 4)


@given(
    largest=st.integers(1000, 2**40),
    shares=st.lists(st.floats(0, 0.9), min_size=1, max_size=40),
    start=st.floats(0, 1),
)
@settings(max_examples=100)
def test_a_counter_that_starts_again_loses_nothing(largest, shares, start, tmp_path_factory):
    path = tmp_path_factory.mktemp("zone") / "energy_uj"
    total = begun = int(start * largest)
    counter = EnergyCounter(path, largest)
    path.write_text(str(total % (largest + 1)))
    assert counter.joules() == 0
    for share in shares:
        total += int(share * largest)
        path.write_text(str(total % (largest + 1)))
        told = counter.joules()
    # Each time it starts again, the step from the largest value to 0 counts nothing: a microjoule.
    assert told == pytest.approx((total - begun) / 1e6, abs=(len(shares) + 1) / 1e6)


def test_counters_that_may_not_be_read_are_not_there(tmp_path):
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # as unreadable as it gets, also for root
    assert rapl_counters(tmp_path) == []
    assert find_source(False, tmp_path) is None


def test_a_jetson_tells_of_the_whole_module(tmp_path):
    sensor = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    for channel, (label, volts, amperes) in enumerate(
        [("VDD_IN", 5000, 2000), ("VDD_CPU", 5000, 500), ("NC", 1, 1)], 1
    ):
        files = {f"in{channel}_label": label, f"in{channel}_input": volts, f"curr{channel}_input": amperes}
        plant(tmp_path / sensor, **files)
    assert len(jetson_rails(tmp_path)) == 1
    clock = Clock()
    for gpu in (False, True):
        meter = PowerMeter(find_source(gpu, tmp_path), clock=clock)
        meter.look()
        plant(tmp_path / sensor, curr1_input=4000)
        clock.now += 2
        meter.look()
        plant(tmp_path / sensor, curr1_input=2000)
        power = meter.result(clips=3)
        assert (power.source, power.peak_watts) == ("jetson", pytest.approx(20))
        assert power.joules_per_clip == pytest.approx((10 + 20) / 2 * 2 / 3)


def test_a_jetson_without_an_input_rail_adds_the_rails_up(tmp_path):
    first, second = (tmp_path / f"sys/bus/i2c/drivers/ina3221/1-004{n}/hwmon/hwmon{n}" for n in (0, 1))
    plant(first, in1_label="VDD_GPU_SOC", power1_input=3_000_000)
    plant(second, in2_label="VIN_SYS_5V0", in2_input=5000, curr2_input=1000)
    source = find_source(True, tmp_path)
    assert source.watts() == pytest.approx(8)


def test_power_that_nothing_tells_of_is_not_measured(tmp_path):
    with PowerMeter(find_source(False, tmp_path)) as meter:
        pass
    power = meter.result(clips=5)
    assert power.source == "not measured"
    assert (power.average_watts, power.peak_watts, power.joules_per_clip) == (None, None, None)


def test_a_counter_that_fails_meanwhile_is_not_measured():
    values = iter([1.0, None, None])
    meter = PowerMeter(PowerSource("rapl", joules=lambda: next(values)), clock=Clock())
    for _ in range(3):
        meter.look()
    assert meter.result(2).source == "not measured"


def test_the_meter_reads_while_the_block_runs():
    read = []
    source = PowerSource("rapl", joules=lambda: float(len(read.append(0) or read)))
    with PowerMeter(source, interval=0.001):
        while len(read) < 5:
            pass
    assert len(read) >= 6


def test_clocks_come_from_cpufreq_or_cpuinfo(tmp_path):
    assert cpu_clock(tmp_path) is None
    plant(tmp_path, proc__cpuinfo="processor : 0\ncpu MHz : 1000.5\n\nprocessor : 1\ncpu MHz : 2000.5\ncpu MHz : x")
    assert cpu_clock(tmp_path) == pytest.approx(1500.5)
    for core, hertz in enumerate((3_000_000, 1_000_000)):
        plant(tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq", scaling_cur_freq=hertz)
    assert cpu_clock(tmp_path) == pytest.approx(2000)


def test_temperatures_come_from_zones_and_chips(tmp_path):
    assert temperatures(tmp_path) == {}
    plant(tmp_path / "sys/class/thermal/thermal_zone0", type="x86_pkg_temp", temp=51_000)
    plant(tmp_path / "sys/class/thermal/thermal_zone1", type="off", temp=-256_000)
    plant(tmp_path / "sys/class/hwmon/hwmon0", name="coretemp", temp1_input=40_500, temp2_input=47_500, temp3_input="?")
    assert temperatures(tmp_path) == {"x86_pkg_temp": 51.0, "coretemp": 47.5}


def test_throttling_is_what_was_counted_meanwhile(tmp_path):
    cores = [tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle" for core in (0, 1)]
    for core in cores:
        plant(core, core_throttle_count=5, package_throttle_count=1)
    assert throttle_count(tmp_path) == 12
    watch = ConditionsWatch(tmp_path)
    assert watch.result().throttled is False
    plant(cores[1], core_throttle_count=8)
    assert watch.result().throttled is True
    assert watch.result().reasons == ["cpu: temperature, 3 times"]


def test_conditions_that_nothing_tells_of_are_unknown(tmp_path):
    with ConditionsWatch(tmp_path) as watch:
        pass
    found = watch.result()
    assert (found.clock_mhz, found.temperature_celsius, found.throttled, found.reasons) == ({}, {}, None, [])


def test_the_highest_temperature_and_all_clocks_are_kept(tmp_path):
    watch = ConditionsWatch(tmp_path)
    for degrees, hertz in ((50, 1_000_000), (70, 3_000_000), (60, 2_000_000)):
        plant(tmp_path / "sys/class/thermal/thermal_zone0", type="cpu", temp=degrees * 1000)
        plant(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq", scaling_cur_freq=hertz)
        watch.look()
    found = watch.result()
    assert found.temperature_celsius == {"cpu": 70.0}
    assert found.clock_mhz == {"cpu": [1000.0, 3000.0, 2000.0]}


def played_driver(**changes):
    """A module pynvml that answers as a GPU would."""
    library = types.ModuleType("pynvml")
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: "gpu",
        "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: 12_500,
        "nvmlDeviceGetPowerUsage": lambda gpu: 71_000,
        "nvmlDeviceGetClockInfo": lambda gpu, kind: {0: 1980, 1: 2619}[kind],
        "nvmlDeviceGetTemperature": lambda gpu, sensor: 44,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: 0x1 | 0x4 | 0x40,
        "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [types.SimpleNamespace(pid=7, usedGpuMemory=123)],
        "nvmlDeviceGetMemoryInfo": lambda gpu: types.SimpleNamespace(used=456),
        "NVML_CLOCK_SM": 0,
        "NVML_CLOCK_MEM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        **changes,
    }
    for name, answer in answers.items():
        setattr(library, name, answer)
    return library


def test_a_gpu_tells_what_it_can(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", played_driver())
    gpu = Nvml.open()
    assert (gpu.joules(), gpu.watts(), gpu.temperature()) == (12.5, 71.0, 44.0)
    assert gpu.clocks() == {"gpu": 1980.0, "gpu memory": 2619.0}
    assert gpu.throttling() == ["the power limit", "temperature (hardware)"]
    assert (gpu.process_memory(7), gpu.process_memory(8)) == (123, 456)
    assert find_source(True, tmp_path, gpu).name == "nvml"
    assert find_source(False, tmp_path, gpu) is None  # the GPU's board says nothing of work on the processor
    watch = ConditionsWatch(tmp_path, gpu)
    watch.look()
    assert watch.result().throttled is True
    assert watch.result().temperature_celsius == {"gpu": 44.0}


def test_what_a_gpu_does_not_tell_is_unknown(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("not supported")

    silent = {name: refuse for name in vars(played_driver()) if name.startswith("nvmlDeviceGet")}
    silent["nvmlDeviceGetHandleByIndex"] = lambda index: "gpu"
    monkeypatch.setitem(sys.modules, "pynvml", played_driver(**silent))
    gpu = Nvml.open()
    assert (gpu.joules(), gpu.watts(), gpu.temperature(), gpu.throttling(), gpu.process_memory(1)) == (None,) * 5
    assert gpu.clocks() == {}
    assert find_source(True, tmp_path, gpu) is None
    monkeypatch.setitem(sys.modules, "pynvml", played_driver(nvmlInit=refuse))
    assert Nvml.open() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml.open() is None


def test_memory_is_found_in_the_stage_that_took_it():
    with MemorySampler(interval=0.001) as sampler:
        sampler.enter("text")
        sampler.enter("denoise")
        # Not through the allocator, which may take it from what was freed, or keep it.
        held = mmap.mmap(-1, 64 * 2**20)
        for _ in range(64):
            held.write(bytes([1]) * 2**20)
        sampler.enter("decode")
        held.close()
        sampler.enter("encode")
    found = sampler.to_json()
    growth = {stage: peak - found["host"]["text"] for stage, peak in found["host"].items()}
    assert growth["denoise"] > 60 * 2**20
    assert growth["decode"] > 60 * 2**20  # held as the stage began
    assert growth["encode"] < 32 * 2**20
    assert found["device"] == {}
    moments = [moment for moment, _ in found["timeline"]]
    assert moments == sorted(moments)
    assert max(count for _, count in found["timeline"]) == max(found["host"].values())


def test_a_reading_that_a_stage_interrupts_is_the_one_befores():
    """The sampling thread has read what "decode" holds and is held up while "encode" begins."""
    has_read = threading.Event()

    class SlowProcess:
        resident = 64

        def memory_info(self):
            found = types.SimpleNamespace(rss=self.resident)
            if threading.current_thread() is not threading.main_thread():
                has_read.set()
                time.sleep(0.05)
            return found

    sampler = MemorySampler(interval=0.001)
    sampler._process = process = SlowProcess()
    with sampler:
        sampler.enter("decode")
        has_read.clear()
        assert has_read.wait(10)
        process.resident = 1
        sampler.enter("encode")
    assert sampler.to_json()["host"] == {"": 64, "decode": 64, "encode": 1}


def test_a_missing_psutil_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtraError, match=r'pip install "edgereel\[bench\]"'):
        MemorySampler()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**40)), max_size=3000), st.integers(3, POINTS))
@settings(max_examples=50)
def test_a_thinned_timeline_keeps_its_ends_and_its_peak(timeline, most):
    kept = thinned(timeline, most)
    assert len(kept) == min(len(timeline), most)
    assert set(kept) <= set(timeline)
    assert kept == sorted(kept)
    if timeline:
        assert (kept[0], kept[-1]) == (min(timeline), max(timeline))
        assert max(count for _, count in kept) == max(count for _, count in timeline)
