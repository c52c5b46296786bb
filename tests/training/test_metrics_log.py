"""metrics.jsonl over several starts of a run."""

import json

import pytest

from jaxdml.training.metrics_log import MetricsWriter, read_metrics


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
