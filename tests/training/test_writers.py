"""Writers of metrics: what they have written is read back and compared with metrics.jsonl."""

import json
import sqlite3
import struct

import pytest
from tensorboardX.proto import event_pb2

from jaxdml import training
from jaxdml.training import defaults, writers
from jaxdml.training.metrics_log import MetricsWriter

NAMES = "tests.training.test_writers"
LOGGED = {1: {"loss/real": 0.5, "images_per_second": 8.0}, 2: {"eval/digits/map@r": 0.25}}


class Kept:
  """A writer of one's own, which keeps what it is given."""

  def __init__(self, workdir, config, resumed):
    self.path = workdir / "kept.json"
    self.lines = [["seed", config["seed"], resumed]]

  def write(self, step, metrics):
    self.lines += [[step, name, value] for name, value in metrics.items()]

  def close(self):
    self.path.write_text(json.dumps(self.lines))


class FailsAtStart(Kept):
  def __init__(self, workdir, config, resumed):
    raise OSError("no such host\nand more")


class FailsAtStep(Kept):
  def write(self, step, metrics):
    raise KeyError("rank")


class FailsAtEnd(Kept):
  def close(self):
    raise RuntimeError("not sent")


def log(workdir, *names, resumed=None, lines=0, logged=LOGGED):
  """Logs as the trainer does; returns what was said and the lines of metrics.jsonl."""
  said = []
  workdir.mkdir(exist_ok=True)
  config = {"seed": 3}
  make = lambda: writers.Writers(names, workdir, config, resumed, said.append)
  with MetricsWriter(workdir, resumed, lines, make) as writer:
    for step, metrics in logged.items():
      writer.write(step, metrics)
  return said, [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def flat(lines):
  return [
    [line["step"], k, v] for line in lines for k, v in line.items() if k not in ("step", "crc")
  ]


def test_one_of_ones_own_gets_what_the_file_gets(tmp_path):
  said, lines = log(tmp_path, f"{NAMES}:Kept")
  kept = json.loads((tmp_path / "kept.json").read_text())
  assert kept == [["seed", 3, None], *flat(lines)] and len(kept) == 4 and not said


@pytest.mark.parametrize(
  ("name", "reason"),
  [
    ("FailsAtStart", "OSError: no such host"),
    ("FailsAtStep", "KeyError: 'rank'"),
    ("FailsAtEnd", "RuntimeError: not sent"),
  ],
)
def test_one_that_fails_is_told_of_once_and_stops_nothing(tmp_path, name, reason):
  said, lines = log(tmp_path, f"{NAMES}:{name}", f"{NAMES}:Kept")
  assert said == [f"{NAMES}:{name} failed ({reason}); training goes on without it"]
  assert json.loads((tmp_path / "kept.json").read_text())[1:] == flat(lines)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("wanbd", "expected of tensorboard, wandb, trackio, or package.module:factory.*got 'wanbd'"),
    ("no.such:thing", "cannot import 'no.such:thing'"),
    (f"{NAMES}:NoSuch", "cannot import"),
  ],
)
def test_a_name_that_is_none_is_refused_before_training(name, message):
  config = defaults.get_config()
  config.train.writers = (name,)
  with pytest.raises(training.ConfigError, match=f"config.train.writers: {message}"):
    training.resolve(config, 1)


def events(workdir):
  """Scalars of TensorBoard's files in the order of their steps, without those purged since."""
  found = {}
  for path in sorted(workdir.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
    data = path.read_bytes()
    while data:
      (size,) = struct.unpack("<Q", data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      if event.session_log.status == event_pb2.SessionLog.START:
        found = {key: value for key, value in found.items() if key[0] < event.step}
      found |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
  return sorted([step, name, value] for (step, name), value in found.items())


def tagged(lines):
  """As TensorBoard spells names."""
  return sorted([step, name.replace("@", "_"), value] for step, name, value in flat(lines))


def test_tensorboards_files_hold_the_same_and_drop_what_runs_again(tmp_path):
  _, lines = log(tmp_path, "tensorboard")
  assert events(tmp_path) == tagged(lines)
  _, lines = log(tmp_path, "tensorboard", resumed=1, lines=1, logged={2: {"loss/real": 0.125}})
  assert events(tmp_path) == tagged(lines) and [2, "loss/real", 0.125] in flat(lines)


def wandb_history(path):
  """The rows that an offline run of Weights & Biases holds: LevelDB's log of protocol buffers."""
  from wandb.proto.wandb_internal_pb2 import Record

  data, at, record, rows = path.read_bytes(), 7, b"", []
  while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:
      at += 32768 - at % 32768
    _, size, kind = struct.unpack("<IHB", data[at : at + 7])
    record += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # the whole of a record, or its last part
      parsed, record = Record.FromString(record), b""
      if parsed.HasField("history"):
        items = parsed.history.item
        rows.append({"/".join(x.nested_key) or x.key: json.loads(x.value_json) for x in items})
  return rows


def test_an_offline_run_of_wandb_holds_the_same(tmp_path, monkeypatch):
  pytest.importorskip("wandb", exc_type=ImportError)
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  said, lines = log(tmp_path, "wandb")
  log(tmp_path, "wandb", resumed=2, lines=2, logged={3: {"loss/real": 0.25}})
  assert not said
  files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
  assert len({file.name for file in files}) == 1  # one run that goes on
  rows = [row for file in files for row in wandb_history(file)]
  wanted = [*flat(lines), [3, "loss/real", 0.25]]
  found = [[row["_step"], k, v] for row in rows for k, v in row.items() if k[0] != "_"]
  assert sorted(found) == sorted(wanted)


def test_trackio_holds_the_same(tmp_path, monkeypatch):
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
  pytest.importorskip("trackio", exc_type=ImportError)
  said, lines = log(tmp_path / "run", "trackio")
  assert not said
  (path,) = (tmp_path / "trackio").glob("*.db")
  with sqlite3.connect(path) as database:
    rows = database.execute("select step, metrics from metrics order by id").fetchall()
  found = [[step, k, v] for step, metrics in rows for k, v in json.loads(metrics).items()]
  assert sorted(found) == sorted(flat(lines))
