"""The report of a run, from the files of its stages; what is missing becomes a note."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from curate.evaluation.paired import Difference, not_paired, paired_difference
from curate.evaluation.records import GapNumbers, GapReport, read_gap
from curate.store.files import SUMMARY
from curate.store.origin import read_origin
from curate.store.summary import CurateSummary, read_summary
from engine.checkpoints.weights import known_fingerprint, load_config
from engine.errors import UNREADABLE, CheckpointError, ConfigError, DataError
from engine.files.atomic import write_file
from hermes_cli.reporting.agreement import JudgeAgreement, judge_agreement
from hermes_cli.reporting.records import BestRound, RoundReport, RunReport
from hermes_cli.reporting.reproduce import (
    TrainingBasis,
    curated_otherwise,
    read_basis,
    run_command,
    trained_otherwise,
)
from hermes_cli.reporting.verdict import BEST_RULE, best_round, round_verdict
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import settle, stored_tree
from hermes_cli.view import encode_pretty
from train.config import BASIS
from train.data.preferences import bounded


def _called(number: int) -> str:
    """A round as a sentence calls it."""
    return "the base" if number == 0 else f"round {number}"


class _ReportBuilder:
    """Collects rounds and notes."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.settings = stored_tree(folder.settings)
        self.notes: list[str] = []
        self.measured: dict[int, GapReport] = {}
        self.rounds: list[RoundReport] = []

    def build(self) -> RunReport:
        numbers = self.folder.begun()
        for number in numbers:
            if (found := self._evaluation(number)) is not None:
                self.measured[number] = found
                self.rounds.append(self._round(number, found))
        for number in numbers[1:]:
            self.notes += self._made_otherwise(number)
        return RunReport(
            rounds=self.rounds,
            best=best_round(self.rounds),
            best_rule=BEST_RULE,
            notes=self.notes,
            commands=[run_command(self.settings, numbers[-1])] if numbers[-1] else [],
            settings=self.settings,
        )

    def _evaluation(self, number: int) -> GapReport | None:
        with self._noting(f"the evaluation of {_called(number)}"):
            found = read_gap(self.folder.evaluation(number))
            if found is None and (why := self.folder.unknown_gap(number)):
                # The same of every round.
                self.notes += [why] if why not in self.notes else []
            elif found is None and self.folder.trained(number):
                self.notes.append(
                    f"{_called(number)} has not been evaluated: run {self.folder.command('eval')}"
                )
            elif found is None:
                says = self.folder.command("status")
                self.notes.append(f"{_called(number)} has no weights yet: {says} says how far it is")
            elif (ours := self._weights(number)) not in ("", found.fingerprint):
                self.notes.append(
                    f"the evaluation of {_called(number)} is left out: it is of other weights "
                    f"({found.fingerprint}, now {ours}); run {self.folder.command('eval')}"
                )
                return None
            return found
        return None

    def _weights(self, number: int) -> str:
        """Fingerprint of a round's weights; empty where they are gone."""
        try:
            return known_fingerprint(self.folder.checkpoint(number))
        except CheckpointError:
            return ""

    def _round(self, number: int, found: GapReport) -> RoundReport:
        summary = self._summary(number)
        stages = self.folder.seconds(number)
        base = self._difference(0, number, found)
        previous = base if number == 1 else self._difference(number - 1, number, found)
        verdict, why = round_verdict(previous) if previous else ("", "")
        if number and previous is None:
            verdict, why = "not comparable", f"it cannot be compared with {_called(number - 1)}"
        judged = self._judged(number)
        basis = self._basis(number)
        started_from, reference = basis.weights if basis else ("", "")
        return RoundReport(
            **{name: getattr(found, name) for name in GapNumbers.__struct_fields__},
            round=number,
            versus_base=base,
            versus_previous=previous,
            verdict=verdict,
            why=why,
            pairs=_pairs(summary),
            scored_by=judged.scored_by if judged else "",
            agreement=judged.agreement if judged else None,
            seconds=sum(stages.values()),
            stages=stages,
            throughput=summary.throughput if summary else None,
            started_from=started_from,
            reference=reference,
        )

    def _difference(self, before: int, number: int, found: GapReport) -> Difference | None:
        if number == 0 or before not in self.measured:
            return None
        reason = not_paired(self.measured[before], found)
        if reason:
            self.notes.append(f"{_called(number)} is not compared with {_called(before)}: {reason}")
            return None
        return paired_difference(self.measured[before], found)

    def _summary(self, number: int) -> CurateSummary | None:
        path = self.folder.curation(number) / SUMMARY
        with self._noting(f"{path.name} of {_called(number)} cannot be read"):
            if number and path.is_file():
                return read_summary(path)
        return None

    def _basis(self, number: int) -> TrainingBasis | None:
        with self._noting(f"how {_called(number)} was trained"):
            return read_basis(self.folder.training(number) / BASIS)
        return None

    def _judged(self, number: int) -> JudgeAgreement | None:
        """Who scored the candidates, and how far the oracle agrees."""
        with self._noting(f"the candidates of {_called(number)} cannot be judged"):
            return judge_agreement(self.folder, number) if number else None
        return None

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """What cannot be read becomes a note."""
        try:
            yield
        except (CheckpointError, ConfigError, DataError, *UNREADABLE) as error:
            note = f"{what}: {error}"
            self.notes += [note] if note not in self.notes else []

    def _made_otherwise(self, number: int) -> Iterator[str]:
        """How a round was made otherwise than the run's settings would make it."""
        if self.folder.imported(number):
            yield f"the pairs of {_called(number)} were imported, so `hermes run` gives others"
        with self._noting(f"how {_called(number)} was curated"):
            origin, summary = read_origin(self.folder.curation(number)), self._summary(number)
            if origin and summary and summary.pairing:
                moved = curated_otherwise(origin, summary.pairing, settle(self.settings))
                if moved:
                    yield f"{_called(number)} was curated with other settings: {', '.join(moved)}"
        basis = self._basis(number)
        if basis is None:
            return
        before, settings = self.measured.get(number - 1), self._as_trained(number)
        start = before.fingerprint if before else ""
        if settings and (moved := trained_otherwise(basis, settings, start, self._reference(number))):
            yield f"{_called(number)} was trained with other settings: {', '.join(moved)}"

    def _as_trained(self, number: int) -> dict[str, object]:
        """The settings with the learning rate that the model's width makes of theirs and the steps that the
        round's pairs do; nothing where those are not known."""
        with self._noting(f"whether {_called(number)} was trained with these settings cannot be told"):
            config = settle(self.settings).training
            config = config.for_width(load_config(self.folder.checkpoint(0)).hidden_size)
            config = bounded(config, self.folder.pairs(number))
            # As JSON gives it: a tuple does not equal its list.
            return {**self.settings, "train": msgspec.json.decode(msgspec.json.encode(config))}
        return {}

    def _reference(self, number: int) -> str:
        """Fingerprint of the weights that the settings make a round's reference; empty where unknown."""
        try:
            before = settle(self.settings).reference.round_before(number)
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


def build_report(folder: RunFolder) -> RunReport:
    """The report of every round that has been evaluated.

    Raises:
        DataError: the run's settings cannot be read.
    """
    return _ReportBuilder(folder).build()


def write_report(folder: RunFolder) -> RunReport:
    """Builds the report and stores it, and which round is the best."""
    report = build_report(folder)
    write_file(folder.report, encode_pretty(report))
    if report.best is None:
        folder.best.unlink(missing_ok=True)
    else:
        best = next(one for one in report.rounds if one.round == report.best)
        record = BestRound(
            round=report.best,
            checkpoint=os.path.relpath(folder.checkpoint(report.best), folder.root),
            fingerprint=best.fingerprint,
            rule=report.best_rule,
        )
        write_file(folder.best, encode_pretty(record))
    return report
