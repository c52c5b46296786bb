"""metrics.jsonl over several starts of a run."""

import json
import zlib

import numpy as np
import pytest

from jaxdml.training.metrics_log import MetricsWriter, read_metrics


def write(workdir, start, *steps):
  with MetricsWriter(workdir, start) as writer:
    for step in steps:
      writer.write(step, {"loss": step / 2, "eval/digits/map@r": 0.5})


def going_on(workdir, start, lines):
  with MetricsWriter(workdir, start, lines) as writer:
    return writer.lost


def kept(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
  "lost", ['{"step": 5, "lo', '{"step": 5, "x": {}', '{"loss": 3.0}', "[5]", "5", "null", ""]
)
def test_going_on_drops_what_runs_again_and_what_is_no_metrics(tmp_path, lost):
  write(tmp_path, 0, 2, 4)
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write(f"{lost}\n" if lost != "" else '\n{"step": 6}\n')
  write(tmp_path, 2, 3)
  rows = kept(tmp_path)
  assert [row["step"] for row in rows] == [2, 3]
  assert rows[1].pop("crc") == zlib.crc32(b'{"step":3,"loss":1.5,"eval/digits/map@r":0.5}')
  assert rows[1] == {"step": 3, "loss": 1.5, "eval/digits/map@r": 0.5}


def test_the_reader_gives_columns_and_passes_over_what_is_cut_off(tmp_path):
  assert read_metrics(tmp_path) == {}
  write(tmp_path, 0, 2, 4)
  path = tmp_path / "metrics.jsonl"
  with path.open("a") as file:
    file.write('{"step": 5, "other": 1.5}\n{"step": 6, "lo')
  found = {
    name: [column.tolist() for column in both] for name, both in read_metrics(tmp_path).items()
  }
  assert found == {
    "loss": [[2.0, 4.0], [1.0, 2.0]],
    "eval/digits/map@r": [[2.0, 4.0], [0.5, 0.5]],
    "other": [[5.0], [1.5]],
  }
  path.write_text('{"step": 1, "loss": 1.0}\n{"loss": 2.0}\n')
  with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected metrics of a step"):
    read_metrics(tmp_path)


@pytest.mark.parametrize(
  "damage",
  [
    lambda text: text.replace(b"loss", b"l\xffss", 1),  # no UTF-8
    lambda text: text[:5] + text[30:],  # torn in the middle
    lambda text: text.replace(b"}\n", b"", 1),  # two lines in one
    lambda text: text[: text.index(b"\n") + 1],  # cut off
    lambda text: b"",
    lambda text: text.replace(b"0.5", b"[5]", 1),
    lambda text: text.replace(b"0.5", b"0.7", 1),  # another number
    lambda text: text.replace(b"\n", b"\0\n", 1),
  ],
)
def test_lines_that_are_lost_are_told_and_the_run_goes_on(tmp_path, damage):
  write(tmp_path, None, 2, 4)
  path = tmp_path / "metrics.jsonl"
  whole = path.read_bytes()
  assert going_on(tmp_path, 4, 2) is None and path.read_bytes() == whole
  path.write_bytes(damage(whole))
  lost = going_on(tmp_path, 4, 2)
  assert "of 2 lines up to step 4 are lost" in lost
  assert all(row["step"] in (2, 4) for row in kept(tmp_path))
  if damage(whole):
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damage(whole)
  read_metrics(tmp_path)
  # It is told once: the next checkpoint knows how many there are.
  assert going_on(tmp_path, 4, len(kept(tmp_path))) is None


def test_a_deleted_file_is_told(tmp_path):
  assert "2 of 2 lines up to step 4 are lost" in going_on(tmp_path, 4, 2)
  assert not (tmp_path / "metrics.jsonl.damaged").exists()


def test_a_new_run_keeps_nothing_of_one_that_was_killed_before_its_first_checkpoint(tmp_path):
  for _ in range(3):
    write(tmp_path, None, 0)
  assert [row["step"] for row in kept(tmp_path)] == [0]


def test_what_is_measured_again_at_the_start_is_logged_once(tmp_path):
  write(tmp_path, None, 0, 2)
  with MetricsWriter(tmp_path, 2, 2) as writer:
    writer.write(2, {"loss": 1.0, "eval/digits/map@r": 0.5})
    writer.write(2, {"other": 1.0})
    writer.write(3, {"loss": 1.0, "eval/digits/map@r": 0.5})
    assert writer.lines == 4
  assert [row["step"] for row in kept(tmp_path)] == [0, 2, 2, 3]


def test_no_number_is_null_and_read_as_nan(tmp_path):
  with MetricsWriter(tmp_path, None) as writer:
    writer.write(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text.startswith('{"step":1,"a":null,"b":null,"c":1.0,"crc":')
  found = read_metrics(tmp_path)
  assert np.isnan(found["a"][1]).all() and np.isnan(found["b"][1]).all()
  assert going_on(tmp_path, 1, 1) is None


def test_the_reader_names_a_damaged_line_and_what_mends_it(tmp_path):
  write(tmp_path, None, 2, 4)
  path = tmp_path / "metrics.jsonl"
  for damage in (b"\xff", b'{"step": 3, "lo'):
    path.write_bytes(damage + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: .* leaves damaged lines out"):
      read_metrics(tmp_path)
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
