"""Writing of a data set beside another process: one that is killed, and one at the same time."""

import fcntl
import os
import shutil
import subprocess
import sys
import time

import pytest

from jaxdml import data
from jaxdml.prepare import CARDS, pictures, shards, write, writing
from tests.data import official

OTHER_PROCESS = """
import os, pathlib, signal, sys, time
from jaxdml.prepare import CARDS, pictures, shards, write, writing
root, kill_after, wait_for = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shards.MIN_ITEMS, writing._AHEAD, writing._THREADS = 4, 1, 1
original, seen = pictures.check_image, []
def check_image(encoded):
  seen.append(1)
  for _ in range(1200):
    if not wait_for or pathlib.Path(wait_for).exists():
      break
    time.sleep(0.05)
  if len(seen) == kill_after:
    os.kill(os.getpid(), signal.SIGKILL)
  original(encoded)
pictures.check_image = check_image
write(CARDS["cub200_2011"].source(root / "source", allow_partial=True), root / "tfds")
print("images", len(seen))
"""


def start(root, *, kill_after=0, wait_for=""):
  return subprocess.Popen(
    [sys.executable, "-W", "error", "-c", OTHER_PROCESS, root, str(kill_after), str(wait_for)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )


@pytest.fixture
def here(monkeypatch):
  """Writes the data set in this process; returns how many images were decoded."""
  monkeypatch.setattr(shards, "MIN_ITEMS", 4)
  monkeypatch.setattr(writing, "_THREADS", 1)
  monkeypatch.setattr(writing, "_AHEAD", 1)

  def run(root):
    seen, original = [], pictures.check_image

    def check_image(encoded):
      seen.append(1)
      original(encoded)

    with monkeypatch.context() as patch:
      patch.setattr(pictures, "check_image", check_image)
      write(CARDS["cub200_2011"].source(root / "source", allow_partial=True), root / "tfds")
    return len(seen)

  return run


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir() if ".json." not in p.name}


@pytest.mark.slow
def test_kill_9_then_the_same_command_keeps_what_is_finished(tmp_path, here):
  official.write_cub(tmp_path / "source")
  whole = tmp_path / "whole"
  shutil.copytree(tmp_path / "source", whole / "source")
  killed = start(tmp_path, kill_after=17)
  assert here(whole) == 24
  _, error = killed.communicate(timeout=60)
  assert killed.returncode == -9, error
  with pytest.raises(data.DatasetNotPreparedError):
    data.load("cub200_2011", "train", data_dir=tmp_path / "tfds")
  work = tmp_path / "tfds" / "cub200_2011" / ".incomplete-1.0.0" / "data"
  kept = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in work.glob("[!.]*record-*-of-*")}
  assert len(kept) >= 2
  assert here(tmp_path) == 24 - 4 * len(kept)  # Finished images are not decoded again.
  directory = tmp_path / "tfds" / "cub200_2011" / "1.0.0"
  now = {
    name: ((directory / name).stat().st_ino, (directory / name).stat().st_mtime_ns) for name in kept
  }
  assert now == kept
  assert contents(directory) == contents(whole / "tfds" / "cub200_2011" / "1.0.0")


@pytest.mark.slow
def test_two_processes_at_once(tmp_path, here, monkeypatch, capfd):
  photos = official.write_cub(tmp_path / "source")
  first = start(tmp_path, wait_for=tmp_path / "go")
  deadline = time.monotonic() + 60
  while not (tmp_path / "tfds" / "cub200_2011" / ".incomplete-1.0.0").exists():
    assert time.monotonic() < deadline and first.poll() is None
    time.sleep(0.02)
  flock = fcntl.flock

  def wait(file, flags):
    if flags == fcntl.LOCK_EX:
      (tmp_path / "go").touch()  # The first may go on once this one waits.
    flock(file, flags)

  monkeypatch.setattr(fcntl, "flock", wait)
  assert here(tmp_path) == 0
  said = capfd.readouterr().err
  assert "Another process is writing" in said and str(tmp_path) in said
  out, error = first.communicate(timeout=60)
  assert first.returncode == 0, error
  assert int(out.split()[-1]) == 24
  official.check("cub200_2011", tmp_path, photos)
