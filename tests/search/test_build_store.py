"""Folders and data sets become stores; a killed one goes on; unreadable images are named."""

import json
import types

import numpy as np
import pytest
from pyarrow import parquet

from jaxdml import data, distances, inference, search
from tests.search.helpers import PATHS, FakeModel, png, write_images
from tests.training.conftest import data_dir as data_dir

LABELS = ("cat", "cat", "dog", "dog", None, "sea", "sea", "tree", "tree", "tree")


@pytest.fixture
def photos(tmp_path):
  return write_images(tmp_path / "photos", PATHS)


def build(photos, out, model=None, **options):
  options = {"shard_size": 4, "batch_size": 3, **options}
  return search.build_store(
    model or FakeModel(), inference.FolderImages.open(photos), out, **options
  )


def reference(photos, paths=PATHS):
  return inference.embed(FakeModel(), [(photos / path).read_bytes() for path in paths])


@pytest.mark.parametrize(("shard_size", "batch_size"), [(4, 3), (3, 4), (100, 100), (1, 1), (2, 9)])
def test_a_folder(photos, tmp_path, shard_size, batch_size):
  out = tmp_path / "new" / "out"
  summary = build(photos, out, shard_size=shard_size, batch_size=batch_size)
  assert summary == (-(-10 // shard_size), -(-10 // shard_size), True, [])
  store = search.Store.open(out)
  assert store.paths == tuple(PATHS) and store.labels == LABELS
  np.testing.assert_allclose(store.embeddings, reference(photos), rtol=1e-6)
  assert store.image(4) == (photos / "loose.png").read_bytes()
  assert store.file(4) == str((photos / "loose.png").resolve())
  assert store.model["fingerprint"] == "abc" and store.model["step"] == 3


def test_it_says_which_distance_ranks_it(photos, tmp_path):
  def opened(name, model):
    build(photos, tmp_path / name, model)
    return search.Store.open(tmp_path / name)

  model, x = FakeModel(), np.eye(2, dtype=np.float32)
  assert opened("cosine", model).distance_fn is None
  loss = types.SimpleNamespace(distance="hyperbolic", distance_options={"curvature": 0.1})
  model.config = types.SimpleNamespace(embedding=model.config.embedding, loss=loss)
  model.distance_fn = distances.hyperbolic(curvature=0.1)
  np.testing.assert_array_equal(opened("ball", model).distance_fn(x, x), model.distance_fn(x, x))
  loss.distance = "mine"
  with pytest.raises(search.SearchError, match="ranked by a distance that is not here: unknown"):
    opened("mine", model).distance_fn  # noqa: B018


def test_killed_it_goes_on(photos, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    build(photos, tmp_path / "out", FakeModel(fails_after=2))
  # Six images were embedded: one shard of four is whole.
  names = lambda: sorted(p.name for p in (tmp_path / "out").iterdir())
  assert names() == ["_embeddings.json", "shard-00000-of-00003.parquet"]
  first = (tmp_path / "out" / names()[1]).read_bytes()
  with pytest.raises(search.SearchError, match="not finished: 1 of 3 shards"):
    search.Store.open(tmp_path / "out")
  left = tmp_path / "out" / ".shard-00001-of-00003.parquet.host.1.tmp"  # Killed while it wrote.
  left.write_bytes(b"half a shard")
  again = FakeModel()
  assert build(photos, tmp_path / "out", again) == (3, 2, True, [])
  assert again.batches == 2  # The six images of two shards, in batches of three.
  assert (tmp_path / "out" / "shard-00000-of-00003.parquet").read_bytes() == first
  np.testing.assert_allclose(
    search.Store.open(tmp_path / "out").embeddings, reference(photos), rtol=1e-6
  )
  assert not left.exists()
  idle = FakeModel()
  assert build(photos, tmp_path / "out", idle) == (3, 0, True, [])
  assert idle.batches == 0


def test_a_removed_shard_is_made_again(photos, tmp_path):
  build(photos, tmp_path / "out")
  (tmp_path / "out" / "shard-00001-of-00003.parquet").write_bytes(b"PAR1")
  with pytest.raises(search.SearchError, match=r"shard-00001-of-00003\.parquet is damaged"):
    build(photos, tmp_path / "out")
  (tmp_path / "out" / "shard-00001-of-00003.parquet").unlink()
  assert build(photos, tmp_path / "out").written == 1
  assert search.Store.open(tmp_path / "out").paths == tuple(PATHS)


def test_each_host_writes_its_own(photos, tmp_path):
  out = tmp_path / "out"
  assert build(photos, out, process_index=1, process_count=2) == (3, 1, False, [])
  assert [path.name for path in out.glob("shard*")] == ["shard-00001-of-00003.parquet"]
  with pytest.raises(search.SearchError, match="not finished: 1 of 3"):
    search.Store.open(out)
  assert build(photos, out, process_index=0, process_count=2) == (3, 2, True, [])
  assert search.Store.open(out).paths == tuple(PATHS)


@pytest.mark.parametrize(
  ("model", "options", "message"),
  [
    (FakeModel("other"), {}, "of another model: abc of .*fake, 5 dimensions; yours is other"),
    (FakeModel(dimension=6), {}, "of another model: abc .* 5 dimensions; yours is abc .* 6 dim"),
    (FakeModel(), {"shard_size": 5}, "shards of 4 images; yours would have 5"),
  ],
)
def test_another_model_or_setting_is_refused(photos, tmp_path, model, options, message):
  build(photos, tmp_path / "out")
  with pytest.raises(search.SearchError, match=message):
    build(photos, tmp_path / "out", model, **options)


def test_other_images_are_refused(photos, tmp_path):
  build(photos, tmp_path / "out")
  other = write_images(tmp_path / "other", ["1.png"])
  with pytest.raises(search.SearchError, match=r"other images.*images 10 then, 1 now"):
    build(other, tmp_path / "out")
  (photos / "cat" / "1.png").write_bytes(png(77, side=9))
  with pytest.raises(search.SearchError, match="these have changed since: listing"):
    build(photos, tmp_path / "out")


def test_unreadable_images_are_named(photos, tmp_path, capsys):
  (photos / "dog" / "3.png").write_text("no image")
  (photos / "tree" / "9.png").write_bytes(b"")
  with pytest.raises(data.ImageDecodeError, match=r"1 of 10 images .* max_bad_images=0.01"):
    build(photos, tmp_path / "out")
  summary = build(photos, tmp_path / "out", max_bad_images=0.2)
  named = [str((photos / name).resolve()) for name in ("dog/3.png", "tree/9.png")]
  assert [file for file, _ in summary.skipped] == named
  assert "not an image in one of" in summary.skipped[0][1]
  assert "empty (0 bytes)" in summary.skipped[1][1]
  assert named[0] in capsys.readouterr().err
  store = search.Store.open(tmp_path / "out")
  left = [path for path in PATHS if path not in ("dog/3.png", "tree/9.png")]
  assert store.paths == tuple(left)
  np.testing.assert_allclose(store.embeddings, reference(photos, left), rtol=1e-6)
  assert [file for file, _ in store.skipped] == named
  finished = json.loads((tmp_path / "out" / "_finished.json").read_text())
  assert finished["embedded"] == 8 and [file for file, _ in finished["skipped"]] == named


def test_the_share_counts_what_was_skipped_before(photos, tmp_path):
  (photos / "cat" / "1.png").write_text("no image")
  (photos / "tree" / "9.png").write_text("no image")
  with pytest.raises(KeyboardInterrupt):
    build(photos, tmp_path / "out", FakeModel(fails_after=2), max_bad_images=0.1)
  with pytest.raises(data.ImageDecodeError, match="2 of 10 images cannot be decoded"):
    build(photos, tmp_path / "out", max_bad_images=0.1)


def test_nothing_readable(tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "a.png").write_text("no image")
  with pytest.raises(data.ImageDecodeError, match="1 of 1 images cannot be decoded"):
    build(tmp_path / "photos", tmp_path / "out", max_bad_images=0.9)


def test_a_model_that_diverged(photos, tmp_path):
  model = FakeModel()
  model.embed_batch = lambda images: np.full((len(images), 5), np.nan, np.float32)
  with pytest.raises(ValueError, match="NaN or infinity: has the model diverged"):
    build(photos, tmp_path / "out", model)


def test_a_data_set(data_dir, tmp_path):
  source = inference.DatasetImages.open("digits", "test", label="parity", data_dir=data_dir)
  whole = source.dataset
  few = inference.DatasetImages(whole.select(np.arange(100, 130)), "parity", data_dir)
  search.build_store(FakeModel(), few, tmp_path / "out", shard_size=20, batch_size=16)
  store = search.Store.open(tmp_path / "out")
  assert store.paths[7] == "digits/test/7" and store.file(7) is None
  names = whole.label_names("parity")
  values = whole.column("parity")[100:130]
  assert store.labels == tuple(names[v] if names else str(v) for v in values)
  np.testing.assert_allclose(
    store.embeddings, inference.embed(FakeModel(), few.read(range(30))), rtol=1e-6
  )
  assert store.image(7) == whole.read([7])[0]
  table = parquet.read_table(tmp_path / "out" / "shard-00001-of-00002.parquet")
  assert {"index", "label_label", "label_parity"} <= set(table.column_names)
  assert table.column("index").to_pylist() == list(range(20, 30))
  assert table.column("label_label").to_pylist() == whole.column("label")[120:130].tolist()
  with pytest.raises(ValueError, match="no label column 'species'"):
    inference.DatasetImages.open("digits", "test", label="species", data_dir=data_dir)
  with pytest.raises(data.DatasetNotPreparedError):
    inference.DatasetImages.open("cub200_2011", "test", data_dir=data_dir)


class Damaged(data.Dataset):
  """The record 125 of its split is no image."""

  def read(self, indices):
    return [
      b"no image" if self.rows[i] == 125 else data.Dataset.read(self, [i])[0] for i in indices
    ]


def test_an_unreadable_record_is_named_by_its_number(data_dir, tmp_path):
  whole = data.load("digits", "test", data_dir=data_dir)
  few = Damaged(**whole.__getstate__()).select(np.arange(100, 130))
  source = inference.DatasetImages(few, "label", data_dir)
  summary = search.build_store(
    FakeModel(), source, tmp_path / "out", shard_size=20, max_bad_images=0.1, process_index=1,
    process_count=2,
  )  # fmt: skip
  ((name, reason),) = summary.skipped
  assert name == "digits/test/25" and "not an image" in reason
