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
