"""metrics.jsonl over several starts of a run."""

import json

import pytest

from jaxdml.training.metrics_log import MetricsWriter


def write(workdir, start, *steps):
  with MetricsWriter(workdir, start) as writer:
    for step in steps:
      writer.write(step, {"loss": step / 2, "eval/digits/map@r": 0.5})


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
  assert rows[1] == {"step": 3, "loss": 1.5, "eval/digits/map@r": 0.5}
