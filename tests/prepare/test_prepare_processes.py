"""`prepare` in processes of its own: killed and started again, and two at once."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from jaxdml import data
from tests.data import official

SLOW_RUN = """
import os, pathlib, signal, sys, time
from jaxdml.commands import prepare
from jaxdml.prepare import pictures, shards, writing
shards.MIN_ITEMS, writing._AHEAD, writing._THREADS = 4, 1, 1
kill_after, wait_for, *argv = sys.argv[1:]
original, seen = pictures.check_image, []
def check_image(encoded):
  seen.append(1)
  for _ in range(1200):
    if not wait_for or pathlib.Path(wait_for).exists():
      break
    time.sleep(0.05)
  if len(seen) == int(kill_after):
    os.kill(os.getpid(), signal.SIGKILL)
  original(encoded)
pictures.check_image = check_image
status = prepare.main(argv)
print("images", len(seen))
sys.exit(status)
"""


def start(root, *, kill_after=0, wait_for="", name="cub200_2011"):
  argv = [name, f"--source={root / 'source'}", f"--data_dir={root / 'tfds'}", "--allow_partial"]
  return subprocess.Popen(
    [sys.executable, "-W", "error", "-c", SLOW_RUN, str(kill_after), str(wait_for), *argv],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir() if ".json." not in p.name}


@pytest.mark.slow
def test_kill_9_then_the_same_command_keeps_what_is_finished(tmp_path):
  official.write_cub(tmp_path / "source")
  whole = tmp_path / "whole"
  shutil.copytree(tmp_path / "source", whole / "source")
  straight, killed = start(whole), start(tmp_path, kill_after=17)
  for process, status in ((straight, 0), (killed, -9)):
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
  with pytest.raises(data.DatasetNotPreparedError):
    data.load("cub200_2011", "train", data_dir=tmp_path / "tfds")
  work = tmp_path / "tfds" / "cub200_2011" / ".incomplete-1.0.0" / "data"
  kept = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in work.glob("[!.]*record-*-of-*")}
  assert len(kept) >= 2
  again = start(tmp_path)
  out, error = again.communicate(timeout=60)
  assert again.returncode == 0, error
  directory = tmp_path / "tfds" / "cub200_2011" / "1.0.0"
  now = {
    name: ((directory / name).stat().st_ino, (directory / name).stat().st_mtime_ns) for name in kept
  }
  assert now == kept
  assert int(out.split()[-1]) == 24 - 4 * len(kept)  # Finished images are not decoded again.
  assert contents(directory) == contents(whole / "tfds" / "cub200_2011" / "1.0.0")


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
  photos = official.write_cub(tmp_path / "source")
  first = start(tmp_path, wait_for=tmp_path / "go")
  deadline = time.monotonic() + 60
  while not (tmp_path / "tfds" / "cub200_2011" / ".incomplete-1.0.0").exists():
    assert time.monotonic() < deadline and first.poll() is None
    time.sleep(0.02)
  second = start(tmp_path)
  said = next(line for line in second.stderr if "Another process is writing" in line)
  (tmp_path / "go").touch()
  results = [process.communicate(timeout=60) for process in (first, second)]
  assert [first.returncode, second.returncode] == [0, 0], results
  assert [int(out.split()[-1]) for out, _ in results] == [24, 0]
  assert str(tmp_path) in said
  official.check("cub200_2011", tmp_path, photos)
