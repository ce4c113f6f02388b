"""The report of a run, from the files of its stages; what is missing becomes a note."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from curate.evaluation.agreement import Agreement
from curate.evaluation.paired import Difference, not_paired, paired_difference
from curate.evaluation.records import GapMeasurement, read_measurement
from curate.store.files import IMPORTED, SUMMARY
from curate.store.summary import CurateSummary
from engine.checkpoints.weights import load_config
from engine.errors import CheckpointError, ConfigError, DataError
from engine.files.atomic import write_file
from hermes_cli.reporting.records import Best, Report, RoundReport, Word
from hermes_cli.reporting.reproduce import read_basis, run_command, trained_otherwise
from hermes_cli.reporting.verdict import BEST_RULE, best_round, verdict
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import settle, stored_tree
from train.data.preferences import bounded


def name_of(number: int) -> str:
    """A round as it is called."""
    return "the base" if number == 0 else f"round {number}"


class _Builder:
    """Collects rounds and notes."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.measured: dict[int, GapMeasurement] = {}
        self.rounds: list[RoundReport] = []

    def build(self) -> Report:
        numbers = self.folder.begun()
        settings = stored_tree(self.folder.settings)
        for number in numbers:
            if (found := self._evaluation(number)) is not None:
                self.measured[number] = found
                self.rounds.append(self._round(number, found))
        self.notes += self._strangers(numbers, settings)
        return Report(
            rounds=self.rounds,
            best=best_round(self.rounds),
            best_rule=BEST_RULE,
            judge=self.measured[max(self.measured)].judge if self.measured else "",
            notes=self.notes,
            commands=[run_command(settings, numbers[-1])] if numbers[-1] else [],
            settings=settings,
        )

    def _evaluation(self, number: int) -> GapMeasurement | None:
        path = self.folder.evaluation(number)
        try:
            found = read_measurement(path)
        except DataError as error:
            self.notes.append(
                f"{path.name} of {name_of(number)} cannot be read ({error.__cause__}): "
                "remove it and run `hermes eval`"
            )
            return None
        if found is None and self.folder.trained(number):
            self.notes.append(f"{name_of(number)} has not been evaluated: run `hermes eval`")
        elif found is None:
            self.notes.append(f"{name_of(number)} has no weights yet: `hermes status` says how far it is")
        return found

    def _round(self, number: int, found: GapMeasurement) -> RoundReport:
        summary = self._summary(number)
        stages = self.folder.seconds(number)
        base = self._difference(0, number, found)
        previous = base if number == 1 else self._difference(number - 1, number, found)
        word, why = self._verdict(number, previous)
        critic, compared = self._critic(number) if number else ("", None)
        basis = read_basis(self.folder.training(number) / "basis.json")
        started_from, reference = basis.weights if basis else ("", "")
        return RoundReport(
            round=number,
            und=found.und,
            und_se=found.und_se,
            gen=found.gen,
            gen_se=found.gen_se,
            gap=found.gap,
            gap_se=found.gap_se,
            items=found.items,
            by_category=found.by_category,
            by_objects=found.by_objects,
            by_kind=found.by_kind,
            versus_base=base,
            versus_previous=previous,
            verdict=word,
            why=why,
            pairs=_pairs(summary),
            critic=critic,
            agreement=compared,
            seconds=sum(stages.values()),
            stages=stages,
            throughput=summary.throughput if summary else None,
            fingerprint=found.fingerprint,
            started_from=started_from,
            reference=reference,
        )

    def _difference(self, before: int, number: int, found: GapMeasurement) -> Difference | None:
        if number == 0 or before not in self.measured:
            return None
        reason = not_paired(self.measured[before], found)
        if reason:
            self.notes.append(f"{name_of(number)} is not compared with {name_of(before)}: {reason}")
            return None
        return paired_difference(self.measured[before], found)

    def _verdict(self, number: int, previous: Difference | None) -> tuple[Word, str]:
        if number == 0:
            return "", ""
        if previous is None:
            return "not comparable", f"it cannot be compared with {name_of(number - 1)}"
        return verdict(previous)

    def _summary(self, number: int) -> CurateSummary | None:
        path = self.folder.curation(number) / SUMMARY
        if number == 0 or not path.is_file():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=CurateSummary)
        except msgspec.MsgspecError as error:
            self.notes.append(f"{path.name} of {name_of(number)} cannot be read: {error}")
            return None

    def _critic(self, number: int) -> tuple[str, Agreement | None]:
        """Who scored the candidates, and how far the oracle agrees."""
        from hermes_cli.reporting.critic import criticism

        try:
            found = criticism(self.folder, number)
        except (CheckpointError, DataError) as error:
            self.notes.append(f"the candidates of {name_of(number)} cannot be judged: {error}")
            return "", None
        return (found.critic, found.agreement) if found else ("", None)

    def _strangers(self, numbers: list[int], settings: dict[str, object]) -> Iterator[str]:
        """Rounds that the run's settings alone do not give."""
        for number in numbers[1:]:
            if (self.folder.curation(number) / IMPORTED).is_file():
                yield f"the pairs of {name_of(number)} were imported, so `hermes run` gives others"
            basis = read_basis(self.folder.training(number) / "basis.json")
            if basis is None:
                continue
            wanted = self._reference(number, settings)
            if moved := trained_otherwise(basis, self._as_trained(number, settings), wanted):
                yield f"{name_of(number)} was trained with other settings: {', '.join(moved)}"

    def _as_trained(self, number: int, settings: dict[str, object]) -> dict[str, object]:
        """The settings with the learning rate that the model's width makes of theirs and the steps that the
        round's pairs do, if those are known."""
        try:
            config = settle(settings).train.for_width(load_config(self.folder.checkpoint(0)).hidden_size)
            config = bounded(config, self.folder.pairs(number))
        except (CheckpointError, ConfigError, DataError):
            return settings
        # As JSON gives it: a tuple does not equal its list.
        return {**settings, "train": msgspec.json.decode(msgspec.json.encode(config))}

    def _reference(self, number: int, settings: dict[str, object]) -> str:
        """Fingerprint of the weights that the settings make a round's reference; empty where unknown."""
        try:
            before = settle(settings).reference.round_before(number)
        except ConfigError:
            return ""
        return self.measured[before].fingerprint if before in self.measured else ""


def _pairs(summary: CurateSummary | None) -> dict[str, int]:
    if summary is None:
        return {}
    return {
        "captions": summary.caption_pairs,
        "images": summary.image_pairs,
        "image_ties": summary.image_ties,
    }


def build_report(folder: RunFolder) -> Report:
    """The report of every round that has been evaluated.

    Raises:
        DataError: the run's settings cannot be read.
    """
    return _Builder(folder).build()


def write_report(folder: RunFolder) -> Report:
    """Builds the report and stores it, and which round is the best."""
    report = build_report(folder)
    write_file(folder.report, msgspec.json.format(msgspec.json.encode(report)))
    if report.best is None:
        folder.best.unlink(missing_ok=True)
    else:
        best = next(one for one in report.rounds if one.round == report.best)
        record = Best(
            round=report.best,
            checkpoint=os.path.relpath(folder.checkpoint(report.best), folder.root),
            fingerprint=best.fingerprint,
            rule=report.best_rule,
        )
        write_file(folder.best, msgspec.json.format(msgspec.json.encode(record)))
    return report
