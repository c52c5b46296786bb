"""XLA as tests use it: they compile much and run little, so it optimises less."""

import os
import subprocess
import sys

_ONE_PIECE = "--xla_cpu_parallel_codegen_split_count=1"
# The first that this XLA knows. A training step compiles in half the time, and with the first ones,
# of jax 0.10, what is compiled is hardly slower.
_CHEAP = (
  ("--xla_backend_optimization_level=1", "--xla_cpu_use_fusion_emitters=false", _ONE_PIECE),
  ("--xla_backend_optimization_level=0", _ONE_PIECE),
  ("--xla_backend_optimization_level=0",),
  (),
)
_KEPT = "JAXDML_TEST_XLA_FLAGS"


def _known(flags) -> bool:
  """Whether this version of XLA, which ends the process at a flag it does not know, takes them."""
  probe = [sys.executable, "-c", "import jax; jax.devices()"]
  environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
  return subprocess.run(probe, env=environment, capture_output=True, timeout=120).returncode == 0


def cheap_flags() -> str:
  """The flags, found out once: pytest-xdist's workers take them from the environment.

  JAXDML_TEST_XLA_FLAGS= leaves the tests with XLA as users have it.
  """
  if _KEPT not in os.environ:
    os.environ[_KEPT] = " ".join(next(filter(_known, _CHEAP)))
  return os.environ[_KEPT]
