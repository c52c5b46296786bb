import errno
import json
import os
import re
import subprocess

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxdml import _files, data
from jaxdml.data import records
from jaxdml.prepare import shards, source, writing
from jaxdml.prepare.source import PrepareError
from tests.data.official import jpeg

FEATURES = {
  "image": tfds.features.Image(),
  "path": tfds.features.Text(),
  "label": tfds.features.ClassLabel(names=["ärmel", "b", "c"]),
}


class Photos:
  """A source in memory: 2 of 3 images train, the rest test."""

  name, version = "image_folder/photos", "1.0.0"
  description, homepage, supervised = "photos", "", "label"
  features = tfds.features.FeaturesDict(FEATURES)

  def __init__(self, count=30, bad=(), fingerprint="a", stop_at=None):
    self.encoded = [b"" if i in bad else jpeg(i) for i in range(count)]
    self.fingerprint = fingerprint
    self.stop_at = stop_at
    self.starts = []
    self.items = [
      source.Item(("train", "train", "test")[i % 3], f"ü/{i:03d}.jpg", {"label": i // 3 % 3})
      for i in range(count)
    ]

  def read(self, start):
    self.starts.append(start)
    for i in range(start, len(self.encoded)):
      if i == self.stop_at:
        raise KeyboardInterrupt
      yield self.encoded[i]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  monkeypatch.setattr(shards, "MIN_ITEMS", 4)
  monkeypatch.setattr(writing, "_THREADS", 2)
  monkeypatch.setattr(writing, "_AHEAD", 1)


def directory_of(root):
  return root / "image_folder" / "photos" / "1.0.0"


def content(directory):
  """All files but what is hidden."""
  return {p.name: p.read_bytes() for p in directory.iterdir() if not p.name.startswith(".")}


def finished(root):
  """Finished shards of an interrupted run -> what changes if they are written again."""
  work = root / "image_folder" / "photos" / ".incomplete-1.0.0" / "data"
  stats = {p.name: p.stat() for p in work.iterdir() if ".array_record" in p.name}
  assert not any(name.startswith(".") for name in stats)
  return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_images_labels_and_paths_are_kept_as_they_are(tmp_path, monkeypatch):
  source = Photos()
  directory = writing.write(source, tmp_path)
  assert directory == directory_of(tmp_path)
  assert not [p for p in directory.parent.iterdir() if p.name.startswith(".incomplete")]
  for split, kept in (("train", lambda i: i % 3 < 2), ("test", lambda i: i % 3 == 2)):
    items = [(source.encoded[i], item) for i, item in enumerate(source.items) if kept(i)]
    part = data.load("tfds:image_folder/photos", split, data_dir=tmp_path)
    assert part.read(range(len(part))) == [encoded for encoded, _ in items]
    assert part.labels["label"].tolist() == [item.values["label"] for _, item in items]
    assert set(part.labels) == {"label"}  # The paths stay on the disk.
    assert part.path(3) == items[3][1].path
    assert part.default_label == "label" and part.label_names("label")[0] == "ärmel"
  # TFDS reads it too.
  (first, *_) = tfds.builder_from_directory(os.fspath(directory)).as_data_source("test")
  assert first["path"].decode() == "ü/002.jpg" and first["image"].shape == (32, 40, 3)


def test_the_labels_are_there_without_reading_the_records(tmp_path, monkeypatch):
  writing.write(Photos(bad=[4], count=99), tmp_path, max_bad_images=0.1)

  def no_scan(*_):
    raise AssertionError("the records were read for their labels")

  monkeypatch.setattr(records, "_scan", no_scan)
  stored = data.load("image_folder/photos", "train", data_dir=tmp_path)
  monkeypatch.undo()
  (directory_of(tmp_path) / records.INDEX_FILE).unlink()
  scanned = data.load("image_folder/photos", "train", data_dir=tmp_path)
  assert len(stored) == 65
  np.testing.assert_array_equal(stored.labels["label"], scanned.labels["label"])


def test_bad_images_are_left_out_and_listed(tmp_path, capsys):
  directory = writing.write(Photos(bad=[0, 8]), tmp_path, max_bad_images=0.1)
  lines = (directory / writing.SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
  assert [json.loads(line)["path"] for line in lines] == ["ü/000.jpg", "ü/008.jpg"]
  assert all(json.loads(line)["reason"] for line in lines)
  error = capsys.readouterr().err
  assert "2 of 30 images cannot be decoded and were left out" in error and "ü/008.jpg: " in error
  counts = "image_folder/photos has 28 images of 3 classes: train 19 of 3 classes, test 9 of 3"
  assert counts in error
  train = data.load("image_folder/photos", "train", data_dir=tmp_path)
  assert len(train) == 19 and train.path(0) == "ü/001.jpg"


def test_too_many_bad_images_are_all_named_and_what_is_finished_is_kept(tmp_path):
  source = Photos(bad=[2, 20, 21])
  with pytest.raises(PrepareError) as error:
    writing.write(source, tmp_path, max_bad_images=0.05)
  message = str(error.value)
  assert message.startswith("3 of the 30 images of 'image_folder/photos' cannot be decoded")
  assert "allows 1" in message
  for path in ("ü/002.jpg (", "ü/020.jpg (", "ü/021.jpg ("):
    assert path in message
  assert not directory_of(tmp_path).exists()
  kept = finished(tmp_path)
  assert len(kept) == len(shards.Plan("", [item.split for item in source.items]).names)
  # What was left out before counts the second time too.
  with pytest.raises(PrepareError, match="3 of the 30 images"):
    writing.write(source, tmp_path, max_bad_images=0.05)
  (share,) = re.findall(r"--max_bad_images=([\d.]+);", message)
  directory = writing.write(source, tmp_path, max_bad_images=float(share))
  assert source.starts == [0]
  assert {
    n: ((directory / n).stat().st_ino, (directory / n).stat().st_mtime_ns) for n in kept
  } == kept
  with pytest.raises(PrepareError, match="2 of the 30 images"):
    writing.write(Photos(bad=[1, 20], stop_at=None), tmp_path, max_bad_images=0.05, overwrite=True)


def test_the_search_for_bad_images_ends_and_goes_on_where_it_was(tmp_path, monkeypatch):
  monkeypatch.setattr(writing, "_LISTED", 3)
  source = Photos(bad=range(8, 30))
  with pytest.raises(PrepareError) as error:
    writing.write(source, tmp_path, max_bad_images=0)
  assert str(error.value).startswith("at least 3 of the 30 images")
  assert "--max_bad_images=0.1 or more" in str(error.value)
  assert 0 < len(finished(tmp_path)) < 8
  with pytest.raises(PrepareError, match=r"at least 21 of .*\n(  .*\n){3}  and 18 more\n"):
    writing.write(source, tmp_path, max_bad_images=20 / 30)
  assert source.starts[1] > 0


@pytest.mark.parametrize("stop_at", [1, 13, 29])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(tmp_path, stop_at):
  whole = writing.write(Photos(bad=[2]), tmp_path / "whole", max_bad_images=0.1)
  with pytest.raises(KeyboardInterrupt):
    writing.write(Photos(bad=[2], stop_at=stop_at), tmp_path, max_bad_images=0.1)
  with pytest.raises(data.DatasetNotPreparedError):
    data.load("image_folder/photos", "train", data_dir=tmp_path)
  kept = finished(tmp_path)
  assert bool(kept) == (stop_at > 12)
  again = Photos(bad=[2])
  directory = writing.write(again, tmp_path, max_bad_images=0.1)
  assert content(directory) == content(whole)
  # It is read from the first item of the first shard that is not finished.
  assert again.starts == {1: [0], 13: [2], 29: [24]}[stop_at]
  if kept:
    now = {n: ((directory / n).stat().st_ino, (directory / n).stat().st_mtime_ns) for n in kept}
    assert now == kept


def test_another_source_starts_over(tmp_path, capsys):
  with pytest.raises(KeyboardInterrupt):
    writing.write(Photos(stop_at=20), tmp_path)
  assert finished(tmp_path)
  changed = Photos(fingerprint="b")
  directory = writing.write(changed, tmp_path)
  assert changed.starts == [0]
  assert "another one than that of the interrupted run: starting over" in capsys.readouterr().err
  assert writing.is_current(changed, directory) and not writing.is_current(Photos(), directory)


def test_a_damaged_shard_of_an_interrupted_run_is_written_again(tmp_path):
  whole = writing.write(Photos(), tmp_path / "whole")
  with pytest.raises(KeyboardInterrupt):
    writing.write(Photos(stop_at=20), tmp_path)
  work = tmp_path / "image_folder" / "photos" / ".incomplete-1.0.0"
  name = sorted(finished(tmp_path))[0]
  (work / "data" / name).write_bytes(b"short")
  (work / "progress" / f"{sorted(finished(tmp_path))[1]}.json").write_text('{"rec')
  assert content(writing.write(Photos(), tmp_path)) == content(whole)


def test_a_finished_data_set_is_left_alone(tmp_path):
  directory = writing.write(Photos(), tmp_path)
  before = {p: p.stat().st_mtime_ns for p in directory.iterdir()}
  again = Photos(fingerprint="b")
  assert writing.write(again, tmp_path) == directory and not again.starts
  assert {p: p.stat().st_mtime_ns for p in directory.iterdir()} == before


def test_overwrite_keeps_the_old_one_until_the_new_one_is_whole(tmp_path):
  directory = writing.write(Photos(), tmp_path)
  before = content(directory)
  with pytest.raises(KeyboardInterrupt):
    writing.write(Photos(fingerprint="b", count=27, stop_at=20), tmp_path, overwrite=True)
  assert content(directory) == before
  writing.write(Photos(fingerprint="b", count=27), tmp_path, overwrite=True)
  assert len(data.load("image_folder/photos", "test", data_dir=tmp_path)) == 9
  assert sorted(p.name for p in directory.parent.iterdir()) == [".lock-1.0.0", "1.0.0"]


def test_a_kill_between_the_two_renames_of_overwrite_loses_nothing(tmp_path, monkeypatch):
  directory = writing.write(Photos(), tmp_path)
  before = content(directory)
  replace = os.replace

  def killed(old, new):
    if new == directory:
      raise KeyboardInterrupt
    replace(old, new)

  monkeypatch.setattr(os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    writing.write(Photos(fingerprint="b", count=27), tmp_path, overwrite=True)
  monkeypatch.undo()
  again = Photos()
  assert content(writing.write(again, tmp_path)) == before and not again.starts


def full_disk(*_):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["flush", "write_json", "write_description"])
def test_a_full_disk(tmp_path, monkeypatch, where):
  whole = writing.write(Photos(), tmp_path / "whole")
  module = shards if where == "write_description" else _files
  original, calls = getattr(module, where), []

  def third(*args, **kwargs):
    calls.append(args)
    if len(calls) >= (1 if where == "write_description" else 3):
      full_disk()
    return original(*args, **kwargs)

  monkeypatch.setattr(module, where, third)
  with pytest.raises(PrepareError) as error:
    writing.write(Photos(), tmp_path)
  message = str(error.value)
  assert "No space left on device" in message and str(tmp_path) in message and "again" in message
  assert not directory_of(tmp_path).exists()
  monkeypatch.setattr(module, where, original)
  assert content(writing.write(Photos(), tmp_path)) == content(whole)


def test_a_really_full_disk(tmp_path):
  mount = tmp_path / "small"
  mount.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(mount)]
  try:
    mounted = subprocess.run(command, capture_output=True, timeout=20).returncode == 0
  except FileNotFoundError:
    mounted = False
  if not mounted:
    pytest.skip("mounting a small file system is not allowed here")
  try:
    with pytest.raises(PrepareError, match="No space left on device"):
      writing.write(Photos(), mount)
    assert finished(mount) and not directory_of(mount).exists()
    subprocess.run([*command[:4], "remount,size=9m", *command[5:]], check=True, timeout=20)
    source = Photos()
    whole = writing.write(Photos(), tmp_path / "whole")
    assert content(writing.write(source, mount)) == content(whole)
    assert source.starts[0] > 0
  finally:
    subprocess.run(["umount", str(mount)], check=True, timeout=20)


def test_a_read_only_directory(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

  monkeypatch.setattr(records.Path, "mkdir", refuse)
  with pytest.raises(PrepareError, match=r"Permission denied.*--data_dir") as error:
    writing.write(Photos(), tmp_path)
  assert str(tmp_path) in str(error.value)
  monkeypatch.undo()
  (tmp_path / "file").write_text("")
  with pytest.raises(PrepareError, match="Not a directory"):
    writing.write(Photos(), tmp_path / "file")


def test_a_directory_that_is_no_data_set_is_not_touched(tmp_path):
  directory_of(tmp_path).mkdir(parents=True)
  (directory_of(tmp_path) / "mine.txt").write_text("mine")
  for overwrite in (False, True):
    with pytest.raises(PrepareError, match="exists but is not a data set"):
      writing.write(Photos(), tmp_path, overwrite=overwrite)
  assert (directory_of(tmp_path) / "mine.txt").read_text() == "mine"


def test_sources_that_cannot_be_written(tmp_path):
  twice = Photos()
  twice.items[5] = twice.items[4]
  with pytest.raises(PrepareError, match=r"names 1 images more than once: ü/004\.jpg"):
    writing.write(twice, tmp_path)
  with pytest.raises(PrepareError, match="has no images"):
    writing.write(Photos(count=0), tmp_path)
  with pytest.raises(
    PrepareError, match=r"max_bad_images must be a share between 0 and 1, got 1\.5"
  ):
    writing.write(Photos(), tmp_path, max_bad_images=1.5)
  with pytest.raises(PrepareError, match=r"no image of the split 'test'.*ü/002\.jpg"):
    writing.write(Photos(bad=range(2, 30, 3), fingerprint="bad"), tmp_path, max_bad_images=1)
  short = Photos()
  del short.encoded[-1]
  with pytest.raises(PrepareError, match=r"ended before ü/029\.jpg, image 30 of 30"):
    writing.write(short, tmp_path)
  assert not directory_of(tmp_path).exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  source = Photos()

  def broken(start):
    yield from source.encoded[start:7]
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  source.read = broken
  with pytest.raises(PrepareError, match=r"cannot read ü/007\.jpg.*Input/output error"):
    writing.write(source, tmp_path)


def test_shards_stay_few(monkeypatch):
  monkeypatch.undo()
  plan = shards.Plan("x", ["train"] * 300_000 + ["test"] * 2000)
  assert len(plan.of_split("train")) <= shards.MAX_SHARDS
  assert [plan.keys.count(key) for key in plan.of_split("test")] == [1024, 976]
  assert plan.names["test", 1] == "x-test.array_record-00001-of-00002"


def test_what_was_prepared_here_is_loaded_by_its_bare_name(tmp_path):
  photos = Photos()
  photos.name = "zoo"
  with pytest.raises(ValueError, match=r"unknown data set 'zoo'.*any other that jaxdml prepare"):
    data.load("zoo", "train", data_dir=tmp_path)
  writing.write(photos, tmp_path)
  train, test = (data.load("zoo", split, data_dir=tmp_path) for split in ("train", "test"))
  assert (len(train), len(test), train.default_label) == (20, 10, "label")
  with pytest.raises(ValueError, match=r"Prepared there: zoo; did you mean 'zoo'\?"):
    data.load("zo", "train", data_dir=tmp_path)
