"""Settings of every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A loaded machine may take any time for an example, so that no test depends on it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
