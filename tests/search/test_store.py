"""What is written is what is read; what is not whole is refused, by name."""

import json
import re

import numpy as np
import pytest
from pyarrow import parquet

from jaxdml import _files, search

ROWS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
PATHS = [f"{'ab'[i % 2]}/{i} ü.png" for i in range(7)]
LABELS = ["a", None, "b", "<b>", "", "é", "a"]
MODEL = {"fingerprint": "f00", "workdir": "runs/x", "step": 9, "normalized": False}


@pytest.fixture
def folder(tmp_path):
  search.write_store(
    tmp_path / "store", ROWS, PATHS, LABELS, model=MODEL, root="photos", shard_size=3
  )
  return tmp_path / "store"


def shard(folder, number):
  return folder / f"shard-{number:05d}-of-00003.parquet"


def test_round_trip(folder):
  store = search.Store.open(folder)
  np.testing.assert_array_equal(store.embeddings, ROWS)
  assert store.embeddings.dtype == np.float32
  assert store.paths == tuple(PATHS) and store.labels == tuple(LABELS)
  assert store.model == {**MODEL, "dimension": 3}
  assert len(store) == 7 and store.skipped == ()
  # The shards are plain Parquet, for whatever reads that, and say what made them.
  table = parquet.read_table(shard(folder, 1))
  assert table.column_names == ["path", "label", "embedding"]
  assert str(table.schema.field("embedding").type).startswith("fixed_size_list")
  assert table.schema.field("embedding").type.list_size == 3
  assert table.column("path").to_pylist() == PATHS[3:6]
  said = json.loads(parquet.read_schema(shard(folder, 1)).metadata[b"jaxdml"])["model"]
  assert said["fingerprint"] == "f00" and said["dimension"] == 3 and said["step"] == 9
  assert {"workdir", "normalized", "jaxdml"} <= said.keys()
  assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("place", ["name", "embedding", "end", "cut", "empty", "text"])
def test_damaged_shard(folder, place):
  path = shard(folder, 1)
  content = bytearray(path.read_bytes())
  if place in ("cut", "empty", "text"):
    content = {"cut": content[:-50], "empty": b"", "text": b"hello" * 50}[place]
  else:
    # One bit of a path, of an embedding or of the file's tail.
    found = {"name": "ü.png".encode(), "embedding": ROWS[3].tobytes()[:4], "end": b"PAR1"}[place]
    at = (content.rfind if place == "end" else content.find)(found)
    assert at > 0
    content[at] ^= 1
  path.write_bytes(content)
  with pytest.raises(search.SearchError, match=f"{path.name} is damaged .*remove it and give"):
    search.Store.open(folder)


def test_missing_shard_and_unfinished(folder):
  shard(folder, 2).unlink()
  with pytest.raises(search.SearchError, match="not finished: 2 of 3 shards are there"):
    search.Store.open(folder)


def test_not_marked_as_finished(folder):
  (folder / "_finished.json").unlink()
  with pytest.raises(search.SearchError, match="not finished: 3 of 3 shards"):
    search.Store.open(folder)


def test_a_shard_of_another_model(folder, tmp_path):
  other = {**MODEL, "fingerprint": "bad"}
  search.write_store(tmp_path / "other", ROWS, PATHS, LABELS, model=other, shard_size=3)
  shard(folder, 1).write_bytes(shard(tmp_path / "other", 1).read_bytes())
  with pytest.raises(search.SearchError, match="of another model: its fingerprint is bad, that of"):
    search.Store.open(folder)


def test_a_shard_of_another_dimension(folder, tmp_path):
  search.write_store(tmp_path / "other", ROWS[:, :2], PATHS, LABELS, model=MODEL, shard_size=3)
  shard(folder, 1).write_bytes(shard(tmp_path / "other", 1).read_bytes())
  with pytest.raises(search.SearchError, match="its dimension is 2, that of "):
    search.Store.open(folder)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "_embeddings.json is damaged"),
    ("[]", "_embeddings.json is damaged"),
    ('{"format": 1, "model": {}}', "damaged .it has no seal: another version of jaxdml wrote it"),
    (json.dumps(_files.seal({"format": 1})), "_embeddings.json is of another version"),
    (b"\xff", "_embeddings.json is damaged"),
    (None, "damaged .its content is not what was written"),
  ],
)
def test_damaged_settings(folder, content, message):
  path = folder / "_embeddings.json"
  content = content or path.read_text().replace('"step": 9', '"step": 8')
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(search.SearchError, match=message):
    search.Store.open(folder)


@pytest.mark.parametrize("name", ["_embeddings.json", "_finished.json", "shard"])
def test_a_flipped_bit_never_passes(folder, name):
  """In what names the images, the model and the shards, and in the shards' own footers."""
  path, before = (shard(folder, 1) if name == "shard" else folder / name), search.Store.open(folder)
  content, rng = path.read_bytes(), np.random.default_rng(0)
  for at in rng.choice(len(content), 60, replace=False):
    damaged = bytearray(content)
    damaged[at] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      after = search.Store.open(folder)
    except search.SearchError:
      continue
    # Blanks between the words of JSON.
    assert (after.model, after.source, after.paths) == (before.model, before.source, before.paths)
    assert path.suffix == ".json" and (after.embeddings == before.embeddings).all()


def test_a_damaged_shard_is_not_blessed_when_the_store_is_finished_again(folder):
  path = shard(folder, 1)
  content = path.read_bytes()
  at = content.rfind(b"skipped")
  path.write_bytes(content[:at] + content[at:].replace(b"skipped", b"skipqed"))
  with pytest.raises(search.SearchError, match=r"shard-00001-of-00003\.parquet is damaged"):
    search.Store.open(folder)
  path.unlink()
  search.write_store(folder, ROWS, PATHS, LABELS, model=MODEL, root="photos", shard_size=3)
  assert search.Store.open(folder).paths == tuple(PATHS)
  (folder / "_finished.json").write_text("{}")
  with pytest.raises(search.SearchError, match=r"finished\.json is damaged .*remove it and give"):
    search.Store.open(folder)


def test_no_store(tmp_path):
  with pytest.raises(search.SearchError, match="nothing does not exist; expected the --out"):
    search.Store.open(tmp_path / "nothing")
  with pytest.raises(search.SearchError, match="holds no embeddings"):
    search.Store.open(tmp_path)
  (tmp_path / "file").write_text("")
  with pytest.raises(search.SearchError, match="file is a file"):
    search.Store.open(tmp_path / "file")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("all of it")
  with pytest.raises(search.SearchError, match="no folder of embeddings and not empty"):
    search.write_store(tmp_path, ROWS, PATHS)
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((ROWS, PATHS[:3]), "3 paths and 3 labels"),
    ((ROWS, PATHS, LABELS[:2]), "7 paths and 2 labels"),
    ((ROWS[0], PATHS[:3]), "got shape (3,)"),
    ((ROWS[:0], []), "got shape (0, 3)"),
    ((ROWS * np.nan, PATHS), "NaN or infinity"),
  ],
)
def test_refused_arrays(tmp_path, arguments, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    search.write_store(tmp_path / "store", *arguments)


def test_labels_may_be_numbers(tmp_path):
  labels = np.array([3, -1, 2**40])
  store = search.write_store(tmp_path / "store", ROWS[:3], PATHS[:3], labels, model=MODEL)
  assert store.labels == ("3", None, "1099511627776")
