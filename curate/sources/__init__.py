"""Where homologous pairs come from: every kind of data set that `--data` takes, row by row."""

from curate.sources.loading import load_source, open_source
from curate.sources.rows import DataRow, Reader, RowProblem
from curate.sources.source import Source

__all__ = ["DataRow", "Reader", "RowProblem", "Source", "load_source", "open_source"]
