import functools
import gc
import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdml import data
from jaxdml.data import loading, workers


@pytest.fixture(autouse=True)
def _collect():
  """What an exception kept alive goes before the next test starts its processes."""
  yield
  gc.collect()


@pytest.fixture
def parts(digits):
  train = digits["train"]
  sampler = data.sampling.create("pk", train.column("label"), 16, 4, seed=3)
  return train, sampler, data.preprocess.create("digits", 32, True, 1)


def _hashes(parts, **options):
  options = {"label": "parity", "seed": 7, "num_steps": 6, **options}
  with data.train_batches(*parts, **options) as batches:
    return [
      hashlib.sha256(b"".join(batch[k].tobytes() for k in sorted(batch))).hexdigest()
      for batch in batches
    ]


def test_batch(parts):
  train, sampler, _ = parts
  with data.train_batches(*parts, label="label", seed=0, num_steps=2) as batches:
    got = list(batches)
  assert len(got) == 2
  assert {k: (v.shape, v.dtype.name) for k, v in got[1].items()} == {
    "image": ((16, 32, 32, 1), "uint8"),
    "label": ((16,), "int32"),
    "index": ((16,), "int32"),
    "replaced": ((16,), "bool"),
  }
  np.testing.assert_array_equal(got[1]["index"], sampler(1))
  np.testing.assert_array_equal(got[1]["label"], train.labels["label"][sampler(1)])
  assert got[1]["image"].min() == 0 and got[1]["image"].max() == 255


def test_labels_are_dense(glyphs):
  test = glyphs["test"]
  sampler = data.sampling.create("npair", test.column("label"), 64, seed=0)
  fn = data.preprocess.create("glyphs", 32, True, 1)
  with data.train_batches(test, sampler, fn, label="label", seed=0, num_steps=1) as batches:
    batch = next(batches)
  classes = test.classes("label")
  assert batch["label"].max() < len(classes)
  np.testing.assert_array_equal(
    classes[batch["label"]], test.labels["label"][batch["index"].astype(int)]
  )


@pytest.mark.slow
def test_the_stream_is_the_same_for_any_number_of_workers(parts):
  alone = _hashes(parts)
  assert len(set(alone)) == 6
  assert _hashes(parts, num_workers=2) == alone


@pytest.mark.slow
def test_the_stream_of_photos_some_damaged_and_kept_is_the_same_for_any_workers(photos, tmp_path):
  train = photos(bad=(3, 8, 9))
  sampler = data.sampling.create("pk", train.column("label"), 16, 4, seed=3)
  bad = data.BadImages(train, 0.5)
  options = {"label": "label", "bad_images": bad}
  changes = {"rotate": 20.0, "color_jitter": 0.2, "rand_augment": 2, "blur": 0.5, "erase": 0.5}
  make = functools.partial(data.preprocess.create, "standard", 64, True, 3, **changes)
  alone = _hashes((train, sampler, make()), **options)
  assert len(set(alone)) == 6
  bad.reasons.clear()
  kept = train, sampler, make(cache=str(tmp_path))
  assert _hashes(kept, num_workers=2, **options) == alone
  assert sorted(bad.reasons) == [3, 8, 9]
  assert any(path.is_file() for path in tmp_path.rglob("*"))
  assert _hashes(kept, **options) == alone
  assert _hashes(kept, num_workers=1, start_step=4, num_steps=2, **options) == alone[4:]


def test_resuming_continues_the_stream(parts):
  whole = _hashes(parts)
  for step in (1, 5):
    assert _hashes(parts, start_step=step, num_steps=6 - step) == whole[step:]


def test_the_seed_changes_the_augmentation_alone(parts):
  with data.train_batches(*parts, label="label", seed=0, num_steps=1) as batches:
    first = next(batches)
  with data.train_batches(*parts, label="label", seed=1, num_steps=1) as batches:
    second = next(batches)
  np.testing.assert_array_equal(first["index"], second["index"])
  assert not np.array_equal(first["image"], second["image"])


def test_keeping_decoded_images_changes_nothing(parts, monkeypatch):
  kept = _hashes(parts)
  monkeypatch.setattr(loading, "CACHE_BYTES", 0)
  assert _hashes(parts) == kept
  train, sampler, fn = parts
  opaque = lambda encoded, rng: fn(encoded, rng)
  assert _hashes((train, sampler, opaque)) == kept


def test_kept_images_are_not_sent_to_workers(parts):
  reader = loading.Images(parts[0], parts[2], None)
  size = len(pickle.dumps(reader))
  reader(np.arange(100), loading.SlotRngs(0, 0), range(100))
  assert len(reader._kept) == 100
  assert len(pickle.dumps(reader)) < size + 1000


def test_each_slot_has_its_own_generator():
  draws = {
    (seed, step, slot): loading.SlotRngs(seed, step).at(slot).random(3).tobytes()
    for seed in (0, 1, 2**63)
    for step in (0, 1, 10**9)
    for slot in (0, 1, 500)
  }
  assert len(set(draws.values())) == len(draws)
  rngs = loading.SlotRngs(1, 10**9)
  for slot in (1, 500, 1):
    # Left-over half words of one slot must not reach the next.
    rng = rngs.at(slot)
    assert rng.random(3).tobytes() == draws[1, 10**9, slot]
    rng.integers(3, dtype=np.uint32)


@pytest.mark.parametrize("count", [2, 4])
def test_shards_are_contiguous_parts_of_the_global_batch(parts, count):
  with data.train_batches(*parts, label="label", seed=0, num_steps=1) as batches:
    whole = next(batches)
  shards = []
  for i in range(count):
    options = {"shard_index": i, "shard_count": count}
    with data.train_batches(*parts, label="label", seed=0, num_steps=1, **options) as batches:
      shards.append(next(batches))
  for key, value in whole.items():
    np.testing.assert_array_equal(np.concatenate([s[key] for s in shards]), value)


def test_evaluation_keeps_order_and_pads(digits):
  part = digits["test"].select(np.arange(70))
  fn = data.preprocess.create("digits", 32, False, 1)
  with data.eval_batches(part, fn, 32) as batches:
    got = list(batches)
  assert [int(b["mask"].sum()) for b in got] == [32, 32, 6]
  assert all(b["image"].shape == (32, 32, 32, 1) for b in got)
  index = np.concatenate([b["index"][b["mask"]] for b in got])
  np.testing.assert_array_equal(index, np.arange(70))
  assert (got[-1]["image"][6:] == 0).all() and (got[-1]["index"][6:] == 69).all()
  one = fn(part.read([33])[0], np.random.default_rng(0))
  np.testing.assert_array_equal(got[1]["image"][1], one)


def test_no_more_workers_than_cores_and_training_says_so_once(parts, monkeypatch, capfd):
  assert 1 <= workers.cores() <= os.cpu_count()
  monkeypatch.setattr(workers, "cores", lambda: 1)
  monkeypatch.setattr(workers, "_told", False)
  said = "data.num_workers=3: 1 here, one for each core; the batches are the same"
  # What reads no training data has the config's workers without a word.
  with data.eval_batches(parts[0], parts[2], 16, num_workers=3) as batches:
    next(batches)
  assert said not in capfd.readouterr().err
  with data.train_batches(*parts, label="label", seed=0, num_workers=3) as batches:
    next(batches)
    running = multiprocessing.active_children()
    assert len([p for p in running if p.name.startswith("grain")]) == 1
  workers.tell(3)
  assert capfd.readouterr().err.count(said) == 1


@pytest.mark.slow
def test_a_worker_that_dies_raises(parts):
  with data.train_batches(*parts, label="label", seed=0, num_workers=1) as batches:
    next(batches)
    (worker,) = [p for p in multiprocessing.active_children() if p.name.startswith("grain")]
    # SIGTERM to the whole group must leave the parent time to save.
    os.kill(worker.pid, signal.SIGTERM)
    assert [len(next(batches)["label"]) for _ in range(8)] == [16] * 8
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(data.WorkerError, match=r"a data worker process died .*exit code -9"):
      for _ in range(100):
        next(batches)


_SCRIPT = """
import os, sys
from jaxdml import data
def main():
  train = data.load("digits", "train", data_dir=sys.argv[1])
  sampler = data.sampling.create("npair", train.column("label"), 8)
  fn = data.preprocess.create("digits", 32, True, 1)
  batches = data.train_batches(train, sampler, fn, label="label", seed=0, num_workers=1)
  global kept
  kept = next(batches)  # Held to the end, as JAX may hold it.
  assert not {"tensorflow", "torch"} & set(sys.modules)
  from multiprocessing import active_children
  print(*(p.pid for p in active_children()), flush=True)
  if sys.argv[2] == "wait":
    sys.stdin.read()
if __name__ == "__main__":
  main()
"""


def _gone(pid, seconds=20):
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    try:
      with open(f"/proc/{pid}/stat") as file:
        if file.read().rsplit(")", 1)[1].split()[0] == "Z":
          return True
    except FileNotFoundError:
      return True
    time.sleep(0.1)
  return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at /proc")
@pytest.mark.parametrize("how", ["exit", "wait"])
def test_workers_end_with_their_parent_and_import_no_tensorflow(tmp_path, data_dir, digits, how):
  script = tmp_path / "script.py"
  script.write_text(_SCRIPT)
  process = subprocess.Popen(
    [sys.executable, script, data_dir, how],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  with process:
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers, process.stderr.read()
    if how == "wait":
      process.kill()
    else:
      assert process.wait(timeout=60) == 0  # Not closed, and yet it ends, and leaves nothing.
      assert "leaked" not in process.stderr.read()
  assert all(_gone(pid) for pid in workers)


def test_closing_twice_and_iterating_after(parts):
  batches = data.train_batches(*parts, label="label", seed=0)
  next(batches)
  batches.close()
  batches.close()
  assert list(batches) == []


def test_labels_of_another_length(parts, digits):
  _, sampler, fn = parts
  with pytest.raises(ValueError, match=r"sampler was made from 901 labels.*has 10 records"):
    data.train_batches(digits["train"].select(range(10)), sampler, fn, label="label", seed=0)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"shard_count": 3}, r"data.batch_size \(16\) must be a multiple of the number of hosts \(3\)"),
    ({"shard_index": 1}, r"shard_index must be in 0\.\.0, got 1"),
    ({"start_step": -1}, "start_step must be at least 0, got -1"),
    ({"num_workers": -1}, "data.num_workers must be at least 0, got -1"),
    ({"label": "digit"}, "no label column 'digit'"),
  ],
)
def test_wrong_arguments(parts, options, message):
  with pytest.raises(ValueError, match=message):
    data.train_batches(*parts, **{"label": "label", "seed": 0, **options})


def test_shards_hold_whole_triplets(digits):
  train = digits["train"]
  sampler = data.sampling.create("triplet", train.column("label"), 12)
  fn = data.preprocess.create("digits", 32, True, 1)
  with pytest.raises(ValueError, match=r"hosts \(3\) times 3"):
    data.train_batches(train, sampler, fn, label="label", seed=0, shard_count=3)


def test_wrong_evaluation_arguments(digits):
  fn = data.preprocess.create("digits", 32, False, 1)
  with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
    data.eval_batches(digits["test"], fn, 0)
  with pytest.raises(ValueError, match="has no records"):
    data.eval_batches(digits["test"].select([]), fn, 8)


def test_classes_that_are_never_drawn_are_told_once(photos, capsys):
  dataset = photos(np.array([0, 0, 1, 1, 2, 3]))
  sampler = data.sampling.create("pk", dataset.column("label"), 4)
  fn = data.preprocess.create("standard", 8, train=True, channels=3)
  for shard in range(2):
    data.train_batches(
      dataset, sampler, fn, label="label", seed=0, shard_index=shard, shard_count=2
    ).close()
  said = capsys.readouterr().err
  assert said.count("never drawn in training on 'photos': 2 of the 4 classes of 'label' have") == 1
