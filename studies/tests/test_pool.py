"""Processes that share the cores: results, errors, deaths, output."""

import os
import sys

from studies import pool


def task(what, path):
  print(f"out {what}")
  print(f"err {what}", file=sys.stderr)
  os.system("echo from below")
  if what == "raise":
    raise ValueError("no good")
  if what == "die":
    os._exit(3)
  if what == "stop":
    return pool.INTERRUPTED
  path.write_text(f"{what} {sorted(os.sched_getaffinity(0))}")
  return None


def test_tasks_that_raise_or_kill_their_process_leave_the_others_alone(tmp_path):
  whats = ["a", "raise", "die", "b", "c"]
  tasks = [((what, tmp_path / what), tmp_path / "logs" / what) for what in whats]
  done = {d.index: d for d in pool.run(task, tasks, workers=2)}
  assert sorted(done) == [0, 1, 2, 3, 4]
  errors = [done[i].error for i in range(5)]
  assert errors == [None, "ValueError: no good", "its process died with exit status 3", None, None]
  cores = sorted(os.sched_getaffinity(0))
  shares = [str(cores[i::2] or cores) for i in range(2)]
  for what in "abc":
    name, _, share = (tmp_path / what).read_text().partition(" ")
    assert name == what and share in shares
    log = (tmp_path / "logs" / what).read_text()
    assert all(f"{stream} {what}" in log for stream in ("out", "err")) and "from below" in log
  assert "ValueError: no good" in (tmp_path / "logs" / "raise").read_text()
  assert all(0 < d.seconds < 60 for d in done.values())


def test_deaths_right_after_results_lose_nothing(tmp_path):
  """A worker that dies while its last result is on the way must not block the other."""
  whats = ["raise", "die", "stop"] * 2
  tasks = [((what, tmp_path / what), tmp_path / str(i)) for i, what in enumerate(whats)]
  done = {d.index: d.error for d in pool.run(task, tasks, workers=2)}
  died = "its process died with exit status"
  assert [done[i] for i in range(6)] == ["ValueError: no good", f"{died} 3", f"{died} 0"] * 2


def test_closing_ends_the_processes(tmp_path):
  tasks = [((str(i), tmp_path / str(i)), tmp_path / "log") for i in range(50)]
  running = pool.run(task, tasks, workers=1)
  assert next(running).error is None
  running.close()
  assert len(list(tmp_path.glob("[0-9]*"))) < 50


def test_nothing_to_do():
  assert list(pool.run(task, [], workers=2)) == []
