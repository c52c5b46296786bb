"""The runner: tuning on validation classes, cells kept, failures told, a tidy table."""

import json

import pytest

from studies import cells, markdown, pool, run, table
from studies.suites import SUITES


@pytest.fixture
def trained(monkeypatch):
  """Cells end at once; their score is higher for higher learning rates. Returns those that ran."""
  ran, broken = [], set()

  def fake(function, tasks, workers):
    assert function is run._train and workers == 2
    for index, ((cell, data_dir, _, keep), log) in enumerate(tasks):
      assert data_dir == "data" and not keep and log.parent == cell.folder
      ran.append(cell)
      if cell.folder.name in broken:
        cell.folder.mkdir(parents=True, exist_ok=True)
        yield pool.Done(index, 1.0, "ValueError: broken")
        continue
      config = cells.config_of(cell)
      score = config.optimizer.learning_rate + cell.seed
      rows = {"trained model": {"map@r": score, "recall@1": 0.5, "num_queries": 9.0}}
      if cell.floors:
        rows = {name: {"map@r": 0.1} for name in cells.FLOORS} | rows
      cell.folder.mkdir(parents=True, exist_ok=True)
      (cell.folder / "cell.json").write_text(json.dumps(cells.as_json(config)))
      (cell.folder / "results.json").write_text(json.dumps(rows))
      yield pool.Done(index, 2.0, None)

  monkeypatch.setattr(pool, "run", fake)
  return ran, broken


def command(tmp_path, *more):
  options = ["--out", str(tmp_path), "--seeds=2", "--workers=2", "--data_dir=data"]
  return run.main(["--suite=collapse", *options, *more])


def test_tunes_on_validation_and_runs_every_seed_with_the_best(trained, tmp_path):
  ran, _ = trained
  assert command(tmp_path) == 0
  suite = SUITES["collapse"]
  tuned = [cell for cell in ran if cell.tuning]
  # Eight arms with three candidates.
  assert len(tuned) == 24 and len(ran) == 24 + 2 * len(suite.arms)
  for cell in tuned:
    config = cells.config_of(cell)
    assert not config.eval.test and not config.eval.raw_pixels and cell.seed == cells.TUNING_SEED
  best = max(c["optimizer.learning_rate"] for c in suite.arms[0].candidates)
  for cell in ran[24:]:
    config = cells.config_of(cell)
    assert config.optimizer.learning_rate == best
    assert config.eval.test and config.seed == cell.seed < 2
  rows = table.read(tmp_path / "collapse" / "table.csv")
  assert rows == table.read(tmp_path / "collapse" / "table.jsonl")
  assert {row.metric for row in rows} == {"map@r", "recall@1"}
  floors = [row for row in rows if row.arm in cells.FLOORS]
  assert all(row.loss == "" for row in floors) and len(floors) == 2 * len(cells.FLOORS)
  tuning = json.loads((tmp_path / "collapse" / "tuning.json").read_text())
  assert len(tuning) == 24 and sum(entry["chosen"] for entry in tuning) == 8
  info = json.loads((tmp_path / "collapse" / "info.json").read_text())
  assert info["seconds"] == 2 * len(ran) and info["runs"] == len(ran)


def test_arms_by_loss_and_method(trained, tmp_path, capsys):
  ran, _ = trained
  assert command(tmp_path, "--loss=triplet", "--method=plain", "--method=EPS") == 0
  arms = {(arm.loss, arm.method) for arm in (SUITES["collapse"].arms[cell.arm] for cell in ran)}
  assert arms == {("triplet", "plain"), ("triplet", "EPS")}
  rows = table.read(tmp_path / "collapse" / "table.csv")
  assert {row.arm for row in rows} == {"plain", "EPS", *cells.FLOORS}
  info = json.loads((tmp_path / "collapse" / "info.json").read_text())
  assert info["command"].endswith("--seeds=2 --loss=triplet --method=plain --method=EPS")
  with pytest.raises(SystemExit):
    command(tmp_path, "--method=EPS", "--method=epps")
  assert "--method: suite collapse has no 'epps'; expected plain, " in capsys.readouterr().err


def test_finished_cells_are_kept_and_failures_told(trained, tmp_path, capsys):
  ran, broken = trained
  broken.add("seed-1")
  assert command(tmp_path) == 1
  told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAILED")]
  assert len(told) == 8
  assert "base letter -> code point, npair plain, seed-1: ValueError: broken; see" in told[0]
  first = len(ran)
  broken.clear()
  assert command(tmp_path) == 0
  assert {cell.folder.name for cell in ran[first:]} == {"seed-1"}
  count = len(ran)
  assert command(tmp_path) == 0
  assert len(ran) == count
  # A finished run of another config is not a result of this one.
  path = ran[-1].folder / "cell.json"
  path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
  # One from before a key existed is, if the key is at its default.
  config = json.loads((older := ran[-2].folder / "cell.json").read_text())
  del config["encoder"]["chunk_size"], config["hdml"]["window"]
  older.write_text(json.dumps(config))
  assert command(tmp_path) == 0
  assert ran[count:] == [ran[count - 1]]
  assert "1 runs were of another config" in capsys.readouterr().err


def test_wrong_arguments_are_told(capsys):
  with pytest.raises(SystemExit, match="2"):
    run.main(["--suite=nonsense"])
  assert "invalid choice: 'nonsense'" in capsys.readouterr().err
  with pytest.raises(SystemExit, match="2"):
    run.main(["--suite=digits", "--seeds=0"])
  assert "--seeds: expected at least 1; got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cell_is_a_run_that_leaves_its_numbers(data_dir, tmp_path):
  overrides = {"train.duration": "2 steps", "train.evaluate_every": "2 steps"}
  overrides["eval.clustering"] = False
  cell = cells.Cell("digits", 0, 3, overrides, False, True, tmp_path / "cell")
  assert run._train(cell, str(data_dir), str(tmp_path / "cache"), False) is None
  rows = cell.results()
  assert list(rows) == ["raw pixels", "untrained encoder", "trained model"]
  assert json.loads((cell.folder / "config.json").read_text())["seed"] == 3
  assert not (cell.folder / "checkpoints").exists()
  metrics = {row.metric for row in cells.rows_of([cell])}
  assert {"map@r", "collapse/modes_kept"} <= metrics and "num_queries" not in metrics
  assert table.MILLIONS not in metrics  # Costs are for suites that show them.


def test_costs_are_of_the_arms_alone_and_stand_in_a_table(tmp_path):
  place = next(i for i, arm in enumerate(SUITES["finetune"].arms) if arm.method == "LoRA")
  cell = cells.Cell("finetune", place, 0, {}, False, True, tmp_path)
  results = {"raw pixels": {"map@r": 0.1}, "trained model": {"map@r": 0.5}}
  (tmp_path / "results.json").write_text(json.dumps(results))
  (tmp_path / "seconds.json").write_text("90")
  cells.write_count(cell, 182_272)
  rows = cells.rows_of([cell])
  found = {(row.arm, row.metric): row.value for row in rows}
  assert found["LoRA", table.MILLIONS] == 0.182272 and found["LoRA", table.MINUTES] == 1.5
  assert not [arm for arm, metric in found if metric == table.MINUTES and arm == "raw pixels"]
  assert "| digits, Lite0 | LoRA | 0.182 | 1.5 |" in markdown.costs(rows)
