"""Checkpoints that something has damaged since they were saved, and paths that Orbax misreads."""

import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxdml.training import checkpoints
from jaxdml.training.checkpoints import CheckpointError, Checkpoints, Progress


class State(NamedTuple):
  step: Any
  params: Any
  opt_state: Any


FLOORS = {"raw pixels": {"map@r": float("nan"), "num_queries": 3}}


def state(step):
  rng = np.random.default_rng(step)
  kernel = lambda: rng.normal(size=(40, 30)).astype(np.float32)
  bias = np.arange(3, dtype=np.int16)
  return State(np.int32(step), {"a": {"kernel": kernel(), "bias": bias}}, (kernel(), ()))


ABSTRACT = jax.eval_shape(lambda: state(0))
PARAMS = {"params": ABSTRACT.params}


def write(workdir, last=(2, 4), best=2):
  manager = Checkpoints(workdir, keep=3)
  for step in last:
    manager.save("last", step, state(step), Progress(0.5, best, FLOORS, 7))
  manager.save("best", best, state(best), Progress(0.5, best, FLOORS, 6))
  manager.wait()
  manager.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("written") / "run"
  write(workdir)
  return workdir


@pytest.fixture
def run(written, tmp_path):
  shutil.copytree(written, tmp_path / "run")
  return tmp_path / "run"


def resume(workdir):
  said = []
  manager = Checkpoints(workdir, keep=3)
  try:
    found = manager.resume(ABSTRACT, said.append)
  finally:
    manager.close()
  return found, said


def read_best(workdir):
  with checkpoints.open_best(workdir) as manager:
    return manager.restore_part("best", PARAMS)


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def facts(workdir, which, step):
  return workdir / "checkpoints" / which / str(step) / "progress" / "metadata"


def test_what_was_saved_is_restored(run):
  (found, progress), said = resume(run)
  assert_equal(found, state(4))
  assert said == [] and progress.lines == 7 and np.isnan(progress.floors["raw pixels"]["map@r"])
  assert "NaN" not in facts(run, "last", 4).read_text()
  step, part = read_best(run)
  assert step == 2
  assert_equal(part["params"], state(2).params)


def swap(array):
  array[3, 4] = -array[3, 4]


@pytest.mark.parametrize("change", [swap, lambda array: array.view(np.uint8).__setitem__(0, 77)])
def test_other_values_than_were_saved_are_damage(tmp_path, monkeypatch, change):
  """As a flipped bit of an uncompressed file gives them: whole, of the right shape, and wrong."""
  real = checkpoints.digests
  write(tmp_path, last=(2,))
  monkeypatch.setattr(checkpoints, "digests", lambda tree: real(state(4)))
  manager = Checkpoints(tmp_path, keep=3)
  wrong = state(4)
  change(wrong.params["a"]["kernel"])
  manager.save("last", 4, wrong, Progress(0.5, 2, FLOORS, 7))
  manager.close()
  monkeypatch.undo()
  (found, _), (said,) = resume(tmp_path)
  assert_equal(found, state(2))
  assert "last/4: ValueError: params/a/kernel is not what was saved: it is damaged" in said
  assert (tmp_path / "checkpoints" / "damaged-last-4").is_dir() and "damaged-last-4" in said
  assert resume(tmp_path)[1] == []


def renamed(text):
  return text.replace('"best"', '"bset"')


@pytest.mark.parametrize(
  "change",
  [
    renamed,
    lambda text: text.replace("0.5", "0.7"),
    lambda text: text.replace('"lines": 7', '"lines": 8').replace('"lines": 6', '"lines": 8'),
    lambda text: text.replace('"seal"', '"sael"'),
    lambda text: text[:-9],
    lambda text: "[]",
    lambda text: "{}",
  ],
)
def test_what_the_loop_remembers_is_checked_too(run, change):
  for which, step in (("last", 4), ("best", 2)):
    path = facts(run, which, step)
    assert change(path.read_text()) != path.read_text()
    path.write_text(change(path.read_text()))
  with pytest.raises(CheckpointError, match=r"best/2: [\s\S]*newest whole one of last/4, last/2"):
    read_best(run)
  (found, progress), said = resume(run)
  assert_equal(found, state(2))
  assert progress.best == 0.5 and len(said) == 2
  assert not (run / "checkpoints" / "best" / "2").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_flipped_bits_on_disk_never_pass(written, tmp_path):
  """Each gives the very state, of this step or of the one before, whichever byte is hit."""
  rng = np.random.default_rng(0)
  files = [p for p in sorted((written / "checkpoints/last/4").rglob("*")) if p.is_file()]
  aside = 0
  for number in range(16):
    run = tmp_path / str(number)
    shutil.copytree(written, run)
    path = run / files[number % len(files)].relative_to(written)
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    (found, progress), said = resume(run)
    assert_equal(found, state(4 if not said else 2))
    assert progress == Progress(0.5, 2, progress.floors, 7)
    aside += len(said)
  assert aside > 4


def test_the_best_is_gone_on_from_where_all_others_are_damaged(run):
  for step in (2, 4):
    shutil.rmtree(run / "checkpoints" / "last" / str(step) / "state")
  (found, progress), said = resume(run)
  assert_equal(found, state(2))
  assert progress.lines == 6 and len(said) == 2


def test_where_all_are_damaged_nothing_is_touched(run):
  for path in (run / "checkpoints").glob("*/*/state"):
    shutil.rmtree(path)
  before = sorted((run / "checkpoints").rglob("*"))
  with pytest.raises(CheckpointError, match="last/4: "):
    resume(run)
  assert sorted((run / "checkpoints").rglob("*")) == before
  for path in [*(run / "checkpoints").glob("last/*"), *(run / "checkpoints").glob("best/*")]:
    if path.name != "4":
      shutil.rmtree(path)
  with pytest.raises(CheckpointError, match="there is no other one: choose another --workdir"):
    resume(run)


def test_no_checkpoint_is_a_new_run(tmp_path):
  assert resume(tmp_path) == (None, [])


@pytest.mark.parametrize(
  "name",
  [
    "seeds[1]",
    "a\\b",
    "*?",
    'it\'s "so"',
    "new\nline",
    "Ünï 模型",
    b"\xff".decode("utf-8", "surrogateescape"),
  ],
)
def test_any_legal_path_is_read_back(tmp_path, name):
  write(tmp_path / name / "run", last=(2,))
  (found, _), said = resume(tmp_path / name / "run")
  assert said == []
  assert_equal(found, state(2))
  assert read_best(tmp_path / name / "run")[0] == 2
  with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
    shutil.rmtree(facts(tmp_path / name / "run", "best", 2).parent)
    read_best(tmp_path / name / "run")


def test_a_digest_sees_every_bit_and_the_kind():
  array = np.arange(10_000, dtype=np.float32)
  digest = lambda x: checkpoints.digests({"x": x})["x"]
  right = digest(array)
  for bit in range(0, 8 * array.nbytes, 179):
    changed = array.copy()
    changed.view(np.uint8)[bit // 8] ^= 1 << bit % 8
    assert digest(changed) != right
  assert len({right, digest(array.reshape(2, -1)), digest(array.view(np.int32))}) == 3
  assert digest(np.zeros((0, 3))) != digest(np.zeros((0, 4))) != digest(np.float32(1))


FULL = """
import pathlib, resource, sys
import numpy as np
from jaxdml.commands import _cli
from jaxdml.training.checkpoints import Checkpoints, Progress
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
rng = np.random.default_rng(0)
state = {f"x{i}": rng.normal(size=(40, 50)).astype(np.float32) for i in range(60)}

def work():
  manager = Checkpoints(pathlib.Path(sys.argv[1]), keep=2)
  try:
    for step in range(3):
      for which in ("last", "best"):
        manager.save(which, step, state, Progress())
    manager.wait()
  finally:
    manager.close()

sys.exit(_cli.guard(work))
"""


@pytest.mark.slow
def test_a_full_disk_is_a_message_and_no_traceback(tmp_path):
  """Files that may not grow: TensorStore fails once an array, in several threads."""
  ended = subprocess.run(
    [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120
  )
  assert ended.returncode == 2 and "Traceback" not in ended.stderr
  first, second = [line for line in ended.stderr.splitlines() if "WARNING" not in line]
  assert first.startswith(f"error: cannot write to {tmp_path / 'checkpoints'}: ")
  assert second.startswith("what was saved before is whole; make room there")
