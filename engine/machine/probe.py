"""What this process may use of the machine: cores, memory and GPUs, as Linux tells."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.records import Record

ROOT = Path("/")


class Machine(Record):
    """What may be used, by all processes that are planned together."""

    cores: tuple[tuple[int, ...], ...]
    """Physical cores, each with the numbers of its hardware threads; those of a memory node lie together."""
    memory: int
    """Bytes that can still be taken."""
    gpus: tuple[int, ...] = ()
    """Free bytes of each GPU."""
    threads: int = 0
    """Threads of every process, where OMP_NUM_THREADS says so; 0 where it is not set."""


def read_machine(root: Path = ROOT) -> Machine:
    """This machine, under its affinity mask and control groups; what cannot be read limits nothing."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return Machine(
        cores=usable_cores(root),
        memory=free_memory(root),
        gpus=_gpus(),
        threads=int(threads) if threads.isdecimal() else 0,
    )


def usable_cores(root: Path = ROOT) -> tuple[tuple[int, ...], ...]:
    """The physical cores of the affinity mask, so many as the control group pays for."""
    allowed = sorted(os.sched_getaffinity(0))
    grouped = physical(allowed, root)
    quota = _quota(root)
    return grouped[: max(1, int(quota))] if quota else grouped


def physical(allowed: Iterable[int], root: Path = ROOT) -> tuple[tuple[int, ...], ...]:
    """Hardware threads grouped by their core, in the order of memory nodes."""
    system = root / "sys/devices/system"
    nodes = {
        core: number
        for number, path in enumerate(sorted((system / "node").glob("node[0-9]*/cpulist")))
        for core in parse_list(_text(path))
    }
    wanted, groups = list(allowed), {}
    for core in wanted:
        siblings = parse_list(_text(system / f"cpu/cpu{core}/topology/thread_siblings_list"))
        mine = tuple(one for one in siblings if one in wanted)
        groups[mine or (core,)] = nodes.get(core, 0)
    return tuple(sorted(groups, key=lambda group: (groups[group], group)))


def free_memory(root: Path = ROOT) -> int:
    """Bytes that processes may still take: of the machine, and of every control group over this process."""
    fields = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else 1 << 62
    return max(0, min([free, *_cgroup_room(root)]))


def _cgroup_room(root: Path) -> Iterator[int]:
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    version_2 = ("memory.max", "memory.current", "inactive_file")
    for kind, names in (("memory", version_1), ("", version_2)):
        for folder in _cgroups(root, kind):
            limit, used = _text(folder / names[0]).strip(), _text(folder / names[1]).strip()
            if limit.isdecimal() and used.isdecimal():
                stat = dict(
                    line.split() for line in _text(folder / "memory.stat").splitlines() if " " in line
                )
                # Files that are cached count as used, and go when memory is wanted.
                yield int(limit) - int(used) + int(stat.get(names[2], 0))


def _quota(root: Path) -> float:
    """Cores' worth of time that control groups allow; 0 where they do not say."""
    found = []
    for folder in _cgroups(root, ""):
        limit, _, period = _text(folder / "cpu.max").strip().partition(" ")
        found.append((limit, period))
    for folder in _cgroups(root, "cpu"):
        names = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        limit, period = (_text(path).strip() for path in names)
        found.append((limit, period))
    return min((int(a) / int(b) for a, b in found if a.isdecimal() and b.isdecimal() and int(b)), default=0.0)


def _cgroups(root: Path, kind: str) -> Iterator[Path]:
    """Folders of this process's group and those above it; `kind` is a controller of version 1, or empty."""
    base = root / "sys/fs/cgroup" / kind
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kind in kinds.split(","):
            folder = base / path.lstrip("/")
            while folder != base:
                yield folder
                folder = folder.parent
            yield base


def parse_list(text: str) -> list[int]:
    """Numbers of Linux's notation for sets: 0-2,5."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found += range(int(first), int(last or first) + 1)
    return found


def list_text(numbers: Iterable[int]) -> str:
    """The opposite of `parse_list`."""
    runs: list[list[int]] = []
    for one in sorted(numbers):
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Processes that are started in the block run on these cores; nothing where none are named."""
    before, wanted = os.sched_getaffinity(0), set(cores)
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def gpu_count() -> int:
    """GPUs that torch may use; asks without taking memory on any."""
    import torch

    return torch.cuda.device_count()


def _gpus() -> tuple[int, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        try:
            found.append(torch.cuda.mem_get_info(index)[0])
        except RuntimeError:
            # Others have so much of it, or have it for themselves, that it cannot even be asked.
            found.append(0)
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
