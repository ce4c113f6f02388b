"""Settings of every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine may take any time for an example, so that no test depends on it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hermes` keeps a variable for what it starts; a test that calls it must not leave it to later ones."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")
