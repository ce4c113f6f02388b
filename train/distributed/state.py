"""The resumable state of a training run as safetensors files and one JSON.

state.json                      `StateInfo`
state-00000-of-00002.safetensors
                                master/NAME, exp_avg/NAME, exp_avg_sq/NAME: whole float32 tensors

Every rank writes the parameters whose number leaves its rank when divided by the number of ranks; together
the files hold each trained parameter once. The order of preferences, the masks and the learning rate are
functions of seed and step, and nothing is drawn from torch's generators, so that no more is needed. A seal
(`engine.files.seals`) has the checksums of all files.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import UNREADABLE, CheckpointError
from engine.files.atomic import write_file, writing
from engine.files.seals import damage
from engine.files.tensors import save_tensors
from engine.records import Record
from train.distributed.full_precision import KINDS, Fp32State

INFO = "state.json"


class StateInfo(Record):
    """What a state is, beside its tensors."""

    updates: int
    """Updates that Adam has made."""
    ranks: int
    """Number of files."""
    schema: int = 1


def write_state(fp32: Fp32State, folder: Path, rank: int, ranks: int) -> None:
    """Writes this rank's file, and rank 0 state.json. All ranks call it."""
    mine: dict[str, Tensor] = {}
    for number, name in enumerate(fp32.parameters):
        for kind in KINDS:
            # Collective: also the ranks that will not write the tensor read it.
            whole = fp32.read(kind, name)
            if number % ranks == rank:
                mine[f"{kind}/{name}"] = whole
    with writing(folder):
        save_tensors(mine, folder / _shard(rank, ranks))
    if rank == 0:
        write_file(folder / INFO, msgspec.json.encode(StateInfo(updates=fp32.updates, ranks=ranks)))


def read_state(fp32: Fp32State, folder: Path) -> None:
    """Restores what `write_state` wrote, whatever number of ranks it was.

    Raises:
        CheckpointError: a file is missing or not as it was sealed, or does not fit the model; names it.
    """
    if reason := damage(folder):
        raise _unusable(folder, reason)
    try:
        info = msgspec.json.decode((folder / INFO).read_bytes(), type=StateInfo)
        shards = [safe_open(folder / _shard(rank, info.ranks), "pt") for rank in range(info.ranks)]
        places = {name: shard for shard in shards for name in shard.offset_keys()}
        wanted = {f"{kind}/{name}" for name in fp32.parameters for kind in KINDS}
        if places.keys() != wanted:
            odd = sorted(places.keys() ^ wanted)
            raise _unusable(folder, f"{len(odd)} tensors too many or too few, the first {odd[0]}")
        # Before anything changes: a state is taken up whole or not at all.
        for key, shard in places.items():
            shape = tuple(shard.get_slice(key).get_shape())
            if shape != fp32.shape(key.partition("/")[2]):
                raise _unusable(folder, f"{key} has shape {list(shape)}")
        fp32.updates = info.updates
        for name in fp32.parameters:
            for kind in KINDS:
                key = f"{kind}/{name}"
                fp32.write(kind, name, places[key].get_tensor(key))
    except (OSError, *UNREADABLE, SafetensorError) as error:
        raise _unusable(folder, error) from error


def _shard(rank: int, ranks: int) -> str:
    return f"state-{rank:05d}-of-{ranks:05d}.safetensors"


def _unusable(folder: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"{folder}: cannot be used: {why}; "
        "remove it, and the run goes on from an earlier state or starts anew"
    )
