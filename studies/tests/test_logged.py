"""The last logged values of runs, mean over seeds."""

import json

from studies import logged


def _write(folder, lines):
  folder.mkdir(parents=True)
  (folder / "metrics.jsonl").write_text(
    "".join(json.dumps({"step": n, **line}) + "\n" for n, line in enumerate(lines))
  )


def test_means_of_last_values(tmp_path, capsys):
  arm = tmp_path / "glyphs" / "task" / "npair-HDML"
  lines = [{"a": 9.0, "b": 9.0}, {"a": 1.0}, {"b": 2.0}, {"eval/a": 7.0}]
  _write(arm / "seed-0", lines)
  _write(arm / "seed-1", [{"a": 3.0, "b": 6.0}])
  _write(arm / "candidate-0", [{"a": 100.0, "b": 100.0}])  # tuning, no result
  _write(tmp_path / "glyphs" / "task" / "npair-plain" / "seed-0", [{"a": 1.0}])
  args = ["--suite=glyphs", f"--out={tmp_path}", "--metrics=a,b"]
  assert logged.main(args) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "| arm | seeds | a | b |"
  assert lines[2:] == ["| npair-HDML | 2 | 2.000 | 4.000 |"]


def test_nothing_there_is_one_message(tmp_path, capsys):
  assert logged.main(["--suite=glyphs", f"--out={tmp_path}"]) == 2
  assert "error: no run of --suite=glyphs in --out=" in capsys.readouterr().err
  _write(tmp_path / "glyphs" / "task" / "arm" / "seed-0", [])
  (tmp_path / "glyphs" / "task" / "arm" / "seed-0" / "metrics.jsonl").write_text(
    '{"step": 1}\n{bro}\n'
  )
  assert logged.main(["--suite=glyphs", f"--out={tmp_path}"]) == 2
  assert "metrics.jsonl, line 2: expected metrics of a step" in capsys.readouterr().err


def test_a_figure_over_training(tmp_path, capsys):
  task = tmp_path / "curves" / "task"
  for seed, end in ((0, 4.0), (1, 6.0)):
    lines = [{"a": 1.0, "eval/x validation/map@r": 0.1}, {"a": end}]
    _write(task / "triplet-HDML" / f"seed-{seed}", lines)
    _write(task / "triplet-plain" / f"seed-{seed}", lines[:1])
  arms = {"HDML": [task / "triplet-HDML" / f"seed-{seed}" for seed in (0, 1)]}
  panels = logged.over_training(arms, ["a", "eval/*/map@r", "b"])
  steps, values = panels["a"]["HDML"]
  assert steps.tolist() == [0, 1] and values.tolist() == [[1.0, 4.0], [1.0, 6.0]]
  assert panels["eval/*/map@r"]["HDML"][1].tolist() == [[0.1], [0.1]]
  assert panels["b"] == {}
  smooth = logged.over_training(arms, ["a"], smooth=5)["a"]["HDML"][1]
  assert smooth.tolist() == [[1.0, 2.5], [1.0, 3.5]]
  figure = tmp_path / "curves.png"
  args = ["--suite=curves", f"--out={tmp_path}", f"--figure={figure}", "--metrics=a,eval/*/map@r"]
  assert logged.main(args) == 0
  assert figure.stat().st_size > 1000 and "wrote" in capsys.readouterr().out
