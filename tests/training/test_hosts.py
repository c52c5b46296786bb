"""Two hosts (processes on loopback, gloo) train the model that one host with two devices trains."""

import collections
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.training.test_loop import digits_config, final_state
from tests.xla import cheap_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOST = """
import json
import sys
import jax
port, count, index, data_dir, workdir = sys.argv[1:]
if int(count) > 1:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
assert jax.device_count() == 2
from jaxdml.training import loop
from tests.training.test_loop import digits_config
from jaxdml.data import loading
load, read = loading.Images.__call__, []
def counted(self, index, *rest, **options):
  if self._labels is None:  # An evaluation's: training lets images of a class stand in.
    read.extend(index.tolist())
  return load(self, index, *rest, **options)
loading.Images.__call__ = counted
rows = loop.train_and_evaluate(digits_config(data_dir, **{overrides}), workdir)
print(json.dumps([rows["trained model"]["map@r"], read]))
"""
OVERRIDES = {"hdml.enabled": True, "hdml.slots": 4, "eval.batch_size": 50}


def _host(port, count, index, data_dir, workdir):
  devices = 2 // count
  environment = {
    **os.environ,
    "XLA_FLAGS": f"{cheap_flags()} --xla_force_host_platform_device_count={devices}",
    "PYTHONPATH": str(ROOT),
  }
  code = HOST.replace("{overrides}", repr(OVERRIDES))
  arguments = [str(port), str(count), str(index), data_dir, str(workdir)]
  return subprocess.Popen(
    [sys.executable, "-c", code, *arguments],
    env=environment,
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


@pytest.mark.slow
def test_two_hosts_equal_one(data_dir, tmp_path):
  port = _free_port()
  hosts = [_host(port, 2, index, data_dir, tmp_path / "two") for index in range(2)]
  hosts.append(_host(port, 1, 0, data_dir, tmp_path / "one"))
  outputs = [host.communicate(timeout=300) for host in hosts]
  for host, (_, error) in zip(hosts, outputs, strict=True):
    assert host.returncode == 0, error
  config = digits_config(data_dir, **OVERRIDES)
  two, one = (final_state(tmp_path / name, config)[0] for name in ("two", "one"))
  assert int(two.step) == 8
  for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
  # Each image is read, and embedded, by one of the two; some evaluations have an odd batch.
  (_, first), (_, second), (score, alone) = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
  assert collections.Counter(first + second) == collections.Counter(alone)
  assert min(len(first), len(second)) > 0.3 * len(alone)
  assert json.loads(outputs[1][0].splitlines()[-1])[0] == pytest.approx(score, abs=0.02)
  # Only the first host writes, and each step once.
  lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == len((tmp_path / "one" / "metrics.jsonl").read_text().splitlines())
  assert len(list((tmp_path / "two").glob("events.out.tfevents.*"))) == 1
