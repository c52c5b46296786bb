"""One device where a test is not about several: compiling for one takes half as long."""

import jax
import pytest


@pytest.fixture
def one_device(monkeypatch):
  device = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: device)
