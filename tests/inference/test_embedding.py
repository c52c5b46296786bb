"""Images of folders become vectors: what counts as one, and in whatever form it is at hand."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxdml import data
from jaxdml.data.picture_files import FolderError
from jaxdml.inference.embedding import EmbeddingError, FolderImages, embed_images, embed_source
from tests.search.helpers import PATHS, FakeModel, png, write_images


@pytest.fixture
def photos(tmp_path):
  return write_images(tmp_path / "photos", PATHS)


def test_what_counts_as_an_image(photos):
  for name in ("notes.txt", ".hidden.png", ".git/x.png", "@eaDir/x.png", "folder.png/10.png"):
    write_images(photos, [name])
  os.symlink(photos, photos / "cat" / "circle")
  os.symlink(photos / "cat" / "1.png", photos / "link.png")
  os.symlink(photos / "gone.png", photos / "dangling.png")
  found = FolderImages.open(photos)
  assert sorted(found.paths) == sorted([*PATHS, "folder.png/10.png", "link.png", "dangling.png"])


@pytest.mark.parametrize("name", [b"cat/\xe9.png", b"caf\xe9/1.png"])
def test_names_that_are_not_utf8(photos, name):
  renamed = os.path.join(os.fsencode(photos), name)
  try:
    os.makedirs(os.path.dirname(renamed), exist_ok=True)
    os.rename(photos / "cat" / "1.png", renamed)
  except OSError:
    pytest.skip("this file system takes UTF-8 names only")
  with pytest.raises(FolderError, match="is not UTF-8: rename it") as told:
    FolderImages.open(photos)
  assert repr(next(part for part in name.split(b"/") if b"\xe9" in part)) in str(told.value)


def test_split_folders_are_no_labels(tmp_path):
  write_images(tmp_path, ["train/cat/1.png", "Test/dog/2.png", "test/3.png"])
  found = FolderImages.open(tmp_path)
  assert dict(zip(found.paths, found.labels, strict=True)) == {
    "train/cat/1.png": "cat", "Test/dog/2.png": "dog", "test/3.png": None,
  }  # fmt: skip


def test_no_images(tmp_path):
  with pytest.raises(FolderError, match="holds no image, at any depth"):
    FolderImages.open(tmp_path)
  with pytest.raises(FolderError, match="gone does not exist; expected a folder"):
    FolderImages.open(tmp_path / "gone")
  (tmp_path / "x.png").write_bytes(png(0))
  with pytest.raises(FolderError, match=r"x\.png is a file; expected a folder"):
    FolderImages.open(tmp_path / "x.png")


def test_a_few_images_as_they_are_at_hand(photos):
  path = photos / PATHS[0]
  given = [path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))]
  embedded = embed_images(FakeModel(), given, batch_size=2)
  np.testing.assert_array_equal(
    embedded, embed_images(FakeModel(), [path.read_bytes()]).repeat(5, axis=0)
  )
  assert embed_images(FakeModel(), []).shape == (0, FakeModel().dimension)
  with pytest.raises(TypeError, match=r"images\[1\]: expected a path"):
    embed_images(FakeModel(), [path, None])
  with pytest.raises(TypeError, match="expected a list of images, got one str"):
    embed_images(FakeModel(), str(path))


def test_a_whole_source_is_embedded_in_its_order(photos):
  (photos / "dog" / "3.png").write_text("no image")
  source = FolderImages.open(photos)
  model = FakeModel()
  bad = data.BadImages(source, 0.2)
  found = list(embed_source(model, source, batch_size=4, bad=bad))
  assert [done for done, _, _ in found] == [4, 8, 10]
  rows = np.concatenate([rows for _, rows, _ in found])
  np.testing.assert_array_equal(rows, [0, 1, 3, 4, 5, 6, 7, 8, 9])
  expected = embed_images(model, source.read(rows))
  np.testing.assert_allclose(np.concatenate([x for _, _, x in found]), expected, rtol=1e-6)
  assert list(bad.reasons) == [2] and "dog/3.png" in bad.reasons[2]


def test_a_model_that_diverged():
  model = FakeModel()
  model.embed_batch = lambda images: np.full((len(images), 5), np.nan, np.float32)
  with pytest.raises(EmbeddingError, match="gives NaN"):
    embed_images(model, [png(0)])
