"""Where homologous pairs come from: every kind of data set that `--data` takes, row by row."""

from curate.sources.loading import load_source, open_source
from curate.sources.rows import Quarantined, Reader, Row, Tally
from curate.sources.source import Source, select

__all__ = ["Quarantined", "Reader", "Row", "Source", "Tally", "load_source", "open_source", "select"]
