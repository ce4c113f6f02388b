"""Plans of processes: cores are dealt out once, sums stay inside the machine, more memory is never worse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.errors import ConfigError
from engine.machine.kv_cache import PAGED_HEADS, paged_head
from engine.machine.plan import GIB, GPU_PROCESS, PROCESS, EngineNeeds, Plan, TrainingNeeds, describe, plan
from engine.machine.probe import (
    Machine,
    free_memory,
    list_text,
    on_cores,
    parse_list,
    physical,
    read_machine,
    usable_cores,
)

sizes = st.integers(0, 40 * GIB)
few = st.integers(1, 4)
CARDS = (80 * GIB, 70 * GIB, 90 * GIB, 80 * GIB) * 4


@st.composite
def machines(draw: st.DrawFn, cards: tuple[tuple[int, ...], ...] = ((), (), CARDS)) -> Machine:
    threads = draw(st.sampled_from([1, 2]))
    count = draw(st.integers(1, 12))
    cores = tuple(tuple(core + count * i for i in range(threads)) for core in range(count))
    gpus = draw(st.sampled_from(cards))
    return Machine(cores=cores, memory=draw(st.integers(GIB, 200 * GIB)), gpus=gpus)


@st.composite
def engines(draw: st.DrawFn) -> EngineNeeds:
    least = draw(st.integers(1, GIB))
    return EngineNeeds(
        weights=draw(st.integers(1, 20 * GIB)),
        cache=least + draw(sizes),
        least=least,
        processes=draw(few),
        copies=draw(few),
        work=draw(st.integers(0, 8 * GIB)),
    )


trainings = st.builds(TrainingNeeds, memory=sizes, ranks=st.integers(1, 6))


def planned(machine: Machine, engine: EngineNeeds | None, training: TrainingNeeds | None) -> Plan | None:
    try:
        return plan(machine, engine, training)
    except ConfigError:
        return None


@given(machines(), engines(), trainings)
def test_processes_that_run_at_the_same_time_share_no_core_while_there_are_enough(
    machine: Machine, engine: EngineNeeds, training: TrainingNeeds
) -> None:
    found = planned(machine, engine, training)
    assume(found is not None)
    assert found is not None
    existing = {thread for core in machine.cores for thread in core}
    for parts, count in ((found.engine, engine.processes * engine.copies), (found.training, training.ranks)):
        used = [core for part in parts for core in part.cores]
        assert len(parts) == count
        assert set(used) <= existing
        assert all(part.threads >= 1 for part in parts)
        if count <= len(machine.cores):
            assert len(used) == len(set(used))
            assert sum(part.threads for part in parts) <= len(machine.cores)


@given(machines(), engines(), trainings)
def test_what_runs_at_the_same_time_fits_into_what_is_free(
    machine: Machine, engine: EngineNeeds, training: TrainingNeeds
) -> None:
    found = planned(machine, engine, training)
    assume(found is not None)
    assert found is not None
    assert found.training_memory <= machine.memory
    assert engine.least <= found.cache <= engine.cache
    if machine.gpus:
        assert 2 * engine.weights + found.cache <= sum(machine.gpus[: engine.processes])
        assert found.sampling_gpu <= min(machine.gpus[: engine.processes])
        assert engine.copies * engine.processes <= len(machine.gpus)
    else:
        assert found.sampling_memory <= machine.memory


@given(machines(cards=(CARDS,)), engines() | st.none(), trainings, st.integers(1, 90 * GIB))
def test_what_trains_on_gpus_has_one_a_rank_and_fits_beside_the_engine_that_sleeps_there(
    machine: Machine, engine: EngineNeeds | None, training: TrainingNeeds, gpu: int
) -> None:
    training = replace(training, gpu=gpu)
    found = planned(machine, engine, training)
    assume(found is not None)
    assert found is not None
    beside = GPU_PROCESS if engine is not None else 0
    assert found.training_gpu == GPU_PROCESS + training.gpu + beside
    assert all(found.training_gpu <= free for free in machine.gpus[: training.ranks])
    assert training.ranks <= len(machine.gpus)
    assert (found.sleep > 0) == (engine is not None)


@given(machines(), engines(), trainings, sizes)
def test_more_memory_is_never_worse(
    machine: Machine, engine: EngineNeeds, training: TrainingNeeds, more: int
) -> None:
    larger = Machine(
        cores=machine.cores,
        memory=machine.memory + more,
        gpus=tuple(one + more for one in machine.gpus),
    )
    less, found = planned(machine, engine, training), planned(larger, engine, training)
    if less is not None:
        assert found is not None
        assert found.cache >= less.cache
        assert found.sleep <= less.sleep
        assert (found.engine, found.training) == (less.engine, less.training)


@given(machines(), engines(), trainings)
def test_a_plan_of_both_allows_what_each_alone_is_allowed_at_most(
    machine: Machine, engine: EngineNeeds, training: TrainingNeeds
) -> None:
    if planned(machine, engine, training) is not None:
        assert planned(machine, engine, None) is not None
        assert planned(machine, None, training) is not None


def test_the_engine_sleeps_as_deep_as_the_training_needs_and_no_deeper() -> None:
    cores = ((0,), (1,))
    engine = EngineNeeds(weights=2 * GIB, cache=GIB, least=GIB // 2)
    training = TrainingNeeds(memory=3 * GIB)
    levels = {}
    for gib in (5, 6, 7, 8, 100):
        found = planned(Machine(cores=cores, memory=gib * GIB), engine, training)
        levels[gib] = None if found is None else (found.sleep, found.cache / GIB)
    assert levels == {5: None, 6: (2, 0.5), 7: (2, 1.0), 8: (1, 1.0), 100: (1, 1.0)}
    tight = plan(Machine(cores=cores, memory=int(6.25 * GIB)), engine, None)
    assert (tight.cut, tight.cache) == (True, 0.75 * GIB)


def test_too_little_memory_is_one_line_that_says_what_is_short() -> None:
    machine = Machine(cores=((0,),), memory=4 * GIB)
    with pytest.raises(ConfigError, match=r"an engine needs at least 8\.0 GiB .*swapped: 6\.0.*4\.0 GiB are"):
        plan(machine, EngineNeeds(weights=3 * GIB, cache=GIB, least=GIB // 2), None)
    small = EngineNeeds(weights=GIB // 4, cache=GIB // 4, least=GIB // 4)
    with pytest.raises(ConfigError, match=r"training needs about 6\.5 GiB beside .*, and 2\.5 GiB are free"):
        plan(machine, small, TrainingNeeds(memory=5 * GIB))
    with pytest.raises(ConfigError, match=r"training needs about 6\.5 GiB, and 4\.0 GiB are free"):
        plan(machine, None, TrainingNeeds(memory=5 * GIB))


def test_an_engine_and_a_training_share_one_gpu_in_turns() -> None:
    """The figures of 1.3B in bfloat16 on 80 GB: float32 masters, Adam and gradients, and activations."""
    engine = EngineNeeds(weights=int(2.7 * GIB), cache=16 * GIB, least=GIB // 2, work=4 * GIB)
    training = TrainingNeeds(memory=0, gpu=40 * GIB)
    card = Machine(cores=((0,), (1,)), memory=100 * GIB, gpus=(78 * GIB,))
    found = plan(card, engine, training)
    assert (found.sleep, found.cut, found.sampling_gpu / GIB) == (1, False, pytest.approx(25.4))
    assert (found.training_memory / GIB, found.training_gpu / GIB) == (pytest.approx(5.7), 43)
    assert describe(found)[2] == (
        "memory of each GPU: engine about 25.4 GiB, training about 43.0 GiB, of 78.0 GiB that are free"
    )
    assert plan(replace(card, memory=5 * GIB), engine, training).sleep == 2, "no room for weights on the host"
    small = replace(card, gpus=(43 * GIB - 1,))
    with pytest.raises(
        ConfigError, match=r"about 41\.5 GiB of each GPU beside .* 41\.5 GiB are free; lower train\.micro"
    ):
        plan(small, engine, training)
    assert plan(small, None, training).training_gpu == int(41.5 * GIB)
    tight = plan(replace(card, gpus=(20 * GIB,)), engine, None)
    assert (tight.cut, tight.sampling_gpu) == (True, 20 * GIB)
    with pytest.raises(
        ConfigError, match=r"at least 9\.9 GiB .* 8\.0 GiB are free for it on its GPUs; lower"
    ):
        plan(replace(card, gpus=(8 * GIB,)), engine, None)


def test_an_engine_on_a_gpu_stays_awake_while_cpus_train() -> None:
    engine = EngineNeeds(weights=GIB, cache=GIB, least=GIB)
    found = plan(
        Machine(cores=((0,),), memory=9 * GIB, gpus=(9 * GIB,)), engine, TrainingNeeds(memory=5 * GIB)
    )
    assert (found.sleep, found.training_gpu, found.training_memory) == (0, 0, 8 * GIB)


def test_more_processes_than_gpus_are_one_line() -> None:
    cards = Machine(cores=((0,), (1,)), memory=100 * GIB, gpus=(78 * GIB, 78 * GIB))
    engine = EngineNeeds(weights=GIB, cache=GIB, least=GIB, processes=2)
    assert plan(cards, engine, TrainingNeeds(memory=0, gpu=GIB, ranks=2)).training
    with pytest.raises(ConfigError, match=r"one for each of its 3 ranks, and torch finds 2; lower --ranks"):
        plan(cards, None, TrainingNeeds(memory=0, gpu=GIB, ranks=3))
    with pytest.raises(ConfigError, match=r"tensor_parallel 2 needs so many GPUs .* finds 2 for 2; lower it"):
        plan(cards, replace(engine, copies=2), None)
    with pytest.raises(ConfigError, match=r"train\.device is cuda, and torch finds no GPU"):
        plan(replace(cards, gpus=()), None, TrainingNeeds(memory=0, gpu=GIB))


def test_a_plan_is_said_in_two_lines() -> None:
    machine = Machine(cores=((0, 4), (1, 5), (2, 6), (3, 7)), memory=20 * GIB)
    engine = EngineNeeds(weights=GIB, cache=GIB // 2, least=GIB // 2)
    both = plan(machine, engine, TrainingNeeds(memory=2 * GIB, ranks=2))
    assert describe(both) == [
        "engine: 1 process of 4 threads on cores 0-7, KV cache 0.5 GiB; about 4.0 of 20.0 GiB",
        "training: 2 ranks of 2 threads on cores 0-1,4-5 and 2-3,6-7, engine asleep meanwhile; "
        "about 7.5 of 20.0 GiB",
    ]
    one = Machine(cores=((3,),), memory=20 * GIB, threads=1)
    assert describe(plan(one, None, TrainingNeeds(memory=PROCESS))) == [
        "training: 1 rank of 1 thread on core 3; about 3.0 of 20.0 GiB"
    ]


@given(st.sets(st.integers(0, 300)))
def test_sets_of_cores_survive_linuxs_notation(cores: set[int]) -> None:
    assert parse_list(list_text(cores)) == sorted(cores)


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMORY = {"proc/meminfo": "MemTotal: 900 kB\nMemAvailable:  800 kB\n"}


def test_control_groups_of_both_versions_bound_the_memory(tmp_path: Path) -> None:
    assert free_memory(written(tmp_path / "none", MEMORY)) == 800 * 1024
    second = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.max": "500000",
        "sys/fs/cgroup/a/memory.current": "300000",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 50000\n",
        "sys/fs/cgroup/a/b/memory.max": "max",
        "sys/fs/cgroup/a/b/memory.current": "1000",
    }
    assert free_memory(written(tmp_path / "2", MEMORY | second)) == 250000
    first = {
        "proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/\n0::/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "600000",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "700000",
        "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 100\n",
    }
    assert free_memory(written(tmp_path / "1", MEMORY | first)) == 0
    assert free_memory(tmp_path / "nothing can be read") > 1 << 60


def test_hardware_threads_of_a_core_are_one_core_and_nodes_stay_together(tmp_path: Path) -> None:
    files = {
        f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list": f"{core % 4},{core % 4 + 4}"
        for core in range(8)
    }
    files |= {
        "sys/devices/system/node/node0/cpulist": "0,2,4,6\n",
        "sys/devices/system/node/node1/cpulist": "1,3,5,7\n",
    }
    root = written(tmp_path, files)
    assert physical(range(8), root) == ((0, 4), (2, 6), (1, 5), (3, 7))
    assert physical([0, 1, 5], root) == ((0,), (1, 5))
    assert physical([0, 9], tmp_path / "nothing can be read") == ((0,), (9,))


def test_a_quota_of_time_bounds_the_cores(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert len(usable_cores(written(tmp_path / "none", {}))) == allowed
    group = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}
    assert len(usable_cores(written(tmp_path / "2", group))) == 1
    group["sys/fs/cgroup/cpu.max"] = "max 100000\n"
    assert len(usable_cores(written(tmp_path / "max", group))) == allowed


def test_this_machine_can_be_read_and_cores_come_back_after_a_start() -> None:
    found, before = read_machine(), os.sched_getaffinity(0)
    assert {thread for core in found.cores for thread in core} <= before
    assert GIB // 8 < found.memory < 1 << 50
    with on_cores([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_the_head_sizes_are_vllms() -> None:
    pytest.importorskip("vllm")
    from engine.serving.attention import BACKENDS, CpuPrefixBackend, paged_head_size

    assert tuple(sorted(CpuPrefixBackend.get_supported_head_sizes())) == PAGED_HEADS
    for device, backend in BACKENDS.items():
        for head in range(8, PAGED_HEADS[-1] + 1):
            assert paged_head(head, device) == paged_head_size(backend, head)
