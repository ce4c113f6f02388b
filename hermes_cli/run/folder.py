"""A run's folder: where each stage's files lie, and what must exist before a stage can start."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from curate.store.files import IMPORTED, ORIGIN, PAIRS, SUMMARY
from engine.errors import (
    UNREADABLE,
    BusyError,
    CheckpointError,
    ConfigError,
    StageOrderError,
    StaleError,
)
from engine.files.layout import WEIGHTS, resolve_model
from engine.files.lock import holding
from hermes_cli.recipes import recipe as recipe_of
from hermes_cli.run.event_log import EVENTS, read_events
from hermes_cli.run.state import state
from hermes_cli.settings import RunSettings, Tree, load_settings, store_settings, stored_settings
from train.config import BASIS


class RunFolder:
    """Paths of one run. Round 0 is the base model."""

    def __init__(self, root: Path, model: str) -> None:
        self.root = root
        self._base = resolve_model(model)
        self.settings = root / "run.json"
        """The run's settings, as its commands found them."""
        self.events = root / EVENTS
        """What the run does and has done, in order."""
        self.report, self.page = root / "report.json", root / "report.html"
        """The run's report, for programs and for people."""
        self.best = root / "best.json"
        """Which round is the best, and where its weights lie."""

    def round(self, number: int) -> Path:
        """The folder of a round."""
        return self.root / f"round-{number}"

    def curation(self, number: int) -> Path:
        """Candidates, pairs, summary, sheet and images of a round."""
        return self.round(number) / "curate"

    def pairs(self, number: int) -> Path:
        """The preferences of a round."""
        return self.curation(number) / PAIRS

    def features(self, number: int) -> Path:
        """CLIP features of real images, where understanding needs them."""
        # Brings numpy along, which `hermes --help` does without.
        from engine.files.clip_features import FEATURES

        return self.curation(number) / FEATURES

    def reference(self, number: int) -> Path:
        """Reference log-probs of a round."""
        return self.round(number) / "reference.zarr"

    def checkpoint(self, number: int) -> Path:
        """Weights after a round; the base model for round 0."""
        return self.round(number) / "checkpoint" if number else self._base

    def training(self, number: int) -> Path:
        """Metrics and resumable state of a round's training."""
        return self.round(number) / "checkpoint.training"

    def curves(self, number: int) -> Path:
        """The picture of a round's training."""
        return self.round(number) / "training.png"

    def evaluation(self, number: int) -> Path:
        """The gap after a round."""
        return self.round(number) / "eval.json"

    def gallery(self, number: int) -> Path:
        """What a round generated for a few held-out prompts."""
        return self.round(number) / "gallery"

    def agreement(self, number: int) -> Path:
        """How far a round's judge agrees with the oracle."""
        return self.round(number) / "agreement.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps a second `hermes run` out of the folder until the context ends.

        Raises:
            BusyError: another one is at work.
        """
        busy = f"{self.root}: another `hermes run` is at work here; wait for it, or use another --run"
        with holding(self.root / "run.lock", busy):
            yield

    def imported(self, number: int) -> bool:
        """Whether a round's pairs were imported."""
        return (self.curation(number) / IMPORTED).is_file()

    def curated(self, number: int) -> bool:
        """Whether a round's curation is complete: the summary is written after the pairs."""
        summed = (self.curation(number) / SUMMARY).is_file() or self.imported(number)
        return self.pairs(number).is_file() and summed

    def trained(self, number: int) -> bool:
        """Whether a round's weights are complete."""
        return (self.checkpoint(number) / WEIGHTS).is_file()

    def rounds(self) -> list[int]:
        """The rounds that have weights, the base first."""
        numbers = [0]
        while self.trained(numbers[-1] + 1):
            numbers.append(numbers[-1] + 1)
        return numbers

    def begun(self) -> list[int]:
        """The base, and every round that has a folder."""
        names = (path.name.removeprefix("round-") for path in self.root.glob("round-*") if path.is_dir())
        return sorted({0, *(int(name) for name in names if name.isdecimal())})

    def keep(self, settings: RunSettings) -> None:
        """Keeps what a command was asked for, once its checks have passed: later commands go by it."""
        store_settings(self.settings, settings)

    def require_own_settings(self, settings: RunSettings, own: Sequence[str], command: str) -> None:
        """Raises ConfigError where a command asks for other settings than the run's that it makes no use of:
        those who do would find them changed."""
        if not self.settings.is_file():
            return
        moved, kept = [], load_settings(self.settings)
        for name in settings.__struct_fields__:
            was, now = getattr(kept, name), getattr(settings, name)
            if name in own or was == now:
                continue
            fields = getattr(now, "__struct_fields__", ())
            moved += [f"{name}.{one}" for one in fields if getattr(was, one) != getattr(now, one)] or [name]
        if moved:
            raise ConfigError(
                f"{self.root}: `hermes {command}` does not go by {', '.join(moved)}; give that to the "
                "command that does, or to `hermes run`"
            )

    def training_begun(self, number: int) -> bool:
        """Whether a round's pairs have been trained on, to the end or not."""
        return self.trained(number) or (self.training(number) / BASIS).is_file()

    def set_aside(self, number: int, kept: Callable[[str], bool] = lambda name: False) -> list[str]:
        """Moves all of a round but what is `kept`, by its name, and all later rounds, into folders
        `round-N.old-K`; removes what sums up the run, which `hermes report` writes again.

        Returns a line for each round. A kill leaves the rest for another call.

        Raises:
            BusyError: one of them is being trained.
        """
        said = []
        for later in [*reversed([one for one in self.begun() if one > number]), number]:
            names = sorted(path.name for path in self.round(later).glob("*"))
            names = [name for name in names if later > number or not kept(name)]
            if not names:
                continue
            if (self.training(later) / "lock").is_file():
                with holding(self.training(later) / "lock", f"{self.training(later)}: is being trained"):
                    pass
            taken = (self.round(later).with_suffix(f".old-{count}") for count in itertools.count(1))
            target = next(path for path in taken if not path.exists())
            target.mkdir()
            # Weights before what they were trained with: those that are left alone count as foreign.
            for name in names:
                (self.round(later) / name).rename(target / name)
            if later > number:
                self.round(later).rmdir()
            said.append(f"set aside in {target}: {', '.join(names)}")
        if said:
            for path in (self.best, self.report, self.page):
                path.unlink(missing_ok=True)
        return said

    def require_base(self, anew: bool = False) -> None:
        """Whether the base model is there, and is the one that the run's rounds were made from; with `anew`
        round 1 begins anew, and no longer tells.

        Raises:
            CheckpointError: it is missing.
            StaleError: it is another.
        """
        if not self.trained(0):
            raise CheckpointError(
                f"{self._base}: no {WEIGHTS} here; name a checkpoint folder with --model"
                " (`hermes import` makes one of an official release)"
            )

        found = [(self.evaluation(0), "fingerprint")]
        found += [] if anew else [(self.training(1) / BASIS, "start"), (self.curation(1) / ORIGIN, "model")]
        for path, field in found:
            if known := _text(path, field):
                from engine.checkpoints.weights import fingerprint

                if known != (ours := fingerprint(self._base)):
                    raise StaleError(
                        f"{self.root}: its base model is {known} ({path.relative_to(self.root)}), and "
                        f"{self._base} holds {ours}; name that model with --model, or use another --run"
                    )
                return

    def command(self, name: str, number: int = 0) -> str:
        """A command of this run, as it is typed."""
        return f"`hermes {name}{f' --round {number}' if number else ''} --run {self.root}`"

    def require_weights_before(self, number: int, anew: bool = False) -> None:
        """Raises StageOrderError unless the round before is trained; `anew` begins the round itself again."""
        if number < 1:
            raise ConfigError(f"--round {number}: rounds count from 1")
        self.require_base(anew=anew and number == 1)
        for earlier in range(1, number):
            if not self.pairs(earlier).is_file():
                raise StageOrderError(
                    f"round {number} builds on round {earlier}, which has no pairs in {self.root}: "
                    f"run {self.command('curate', earlier)} first"
                )
            if not self.trained(earlier):
                raise StageOrderError(
                    f"round {number} builds on round {earlier}, which is not trained in {self.root}: "
                    f"run {self.command('train', earlier)} first"
                )

    def require_pairs(self, number: int) -> None:
        """Raises StageOrderError unless a round is curated."""
        self.require_weights_before(number)
        self.require_curated(number)

    def require_curated(self, number: int) -> None:
        """Raises StageOrderError where a round has no pairs, whatever became of the weights before it."""
        if not self.pairs(number).is_file():
            raise StageOrderError(
                f"round {number} has no pairs in {self.root}: run {self.command('curate', number)} first"
            )

    def require_own(self, number: int) -> None:
        """Raises StaleError where a round's pairs were imported: curating would replace them."""
        if self.imported(number) and self.pairs(number).is_file():
            raise StaleError(
                f"{self.curation(number)}: holds imported pairs, which `hermes train` takes; "
                "use another --run, or remove this folder to curate the round"
            )

    def unknown_gap(self, number: int) -> str:
        """Why a round's evaluation was skipped; empty where it was not."""
        found = state(read_events(self.events)).latest(number, "eval")
        return found.last.reason if found and found.end == "skipped" else ""

    def seconds(self, number: int) -> dict[str, float]:
        """Stage -> seconds of a round."""
        return state(read_events(self.events)).seconds(number)


def _text(path: Path, field: str) -> str:
    """A text in a JSON file; empty where there is none."""
    try:
        return str(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]).get(field, ""))
    except (OSError, *UNREADABLE):
        return ""


def asked(root: Path, *layers: Tree, recipe: str | None = None) -> tuple[RunFolder, RunSettings]:
    """The run in a folder, and its settings as a command asks for them; a new run begins with the default
    recipe. Stores nothing: `RunFolder.keep` does, after the command's checks.

    Raises:
        ConfigError: the settings of the run or of the command cannot be used.
    """
    stored = root / "run.json"
    settings = load_settings(stored, recipe_of(recipe, new=not stored.is_file()), *layers)
    return RunFolder(root, settings.model), settings


def require_idle(root: Path, stage: str, number: int | None) -> None:
    """Raises BusyError where a process of this machine is at work on that stage of a round, None for any."""
    for one in state(read_events(root / EVENTS)).attempts:
        begun = one.first
        same = begun.stage == stage and number in (None, begun.round)
        if same and one.end == "open" and begun.process is not None and begun.process.is_here:
            what = stage if number is None else f"{stage} of round {number}"
            raise BusyError(
                f"{root}: process {begun.process.pid} is at work on {what}; wait for it, or use another --run"
            )


def open_run(root: Path, whole: bool = False) -> RunFolder:
    """The run in a folder, to look at; `whole` wants settings or a round in it.

    Raises:
        ConfigError: there is no such run, or its settings cannot be read.
    """
    begun = (root / "run.json").is_file() or any(root.glob("round-*"))
    if not root.is_dir() or (whole and not begun):
        raise ConfigError(
            f"{root}: no run in this folder; `hermes curate --run {root}` makes one, and "
            f"`hermes run --rounds 0 --run {root}` measures a base model"
        )
    return RunFolder(root, stored_settings(root / "run.json").model)
