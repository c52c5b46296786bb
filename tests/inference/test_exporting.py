"""Exported files give the model's embeddings, or are not there."""

import json
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from jaxdml import commands, inference
from jaxdml.commands import evaluate
from jaxdml.inference import exporting
from jaxdml.training import ConfigError, checkpoints
from tests.inference.test_trained_model import write_run
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "run"
  write_run(path, digits_config(data_dir))
  (path / "results.json").write_text('{"trained model": {"map@r": 0.5}}')
  return path


@pytest.fixture(scope="module")
def trained(workdir):
  return inference.load(workdir)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
  """An export in both formats."""
  path = tmp_path_factory.mktemp("exported") / "digits"
  inference.export(trained, path, formats=("stablehlo", "onnx"))
  return path


def some_images(count=5):
  return np.random.default_rng(1).integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)


def test_the_card_says_what_there_is(folder, trained):
  assert {p.name for p in folder.iterdir()} == {"model.stablehlo", "model.onnx", "model_card.json"}
  card = json.loads((folder / "model_card.json").read_text())
  assert card["fingerprint"] == trained.fingerprint
  assert (card["dimension"], card["step"], card["encoder"]) == (8, 3, "convnet")
  assert card["input"]["shape"] == ["batch", 16, 16, 1]
  inside = card["input"]["normalised_inside"]
  pixels = np.array([0, 128, 255])
  normalised = (pixels * inside["scale"] - inside["mean"]) / inside["std"]
  np.testing.assert_allclose(
    normalised, trained.preprocessing.normalize(pixels.astype(np.uint8)), atol=1e-6
  )
  assert card["input"]["before"][-1].startswith("resize to 16 x 16 pixels")
  assert card["metrics"] == {"trained model": {"map@r": 0.5}}
  assert card["config"]["embedding"]["dim"] == 8
  assert all(0 <= d < 1e-5 for d in card["largest_difference"].values())
  assert set(card["largest_difference"]) == {"stablehlo", "onnx"}


def test_an_export_loads_as_a_model(folder, trained, data_dir):
  loaded = inference.load(folder)
  assert loaded.fingerprint == trained.fingerprint and loaded.dimension == 8
  images = some_images()
  expected = trained.embed_batch(images)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(loaded.embed_batch(images), expected, atol=1e-6)
  with pytest.raises(inference.ExportError, match="is an export already"):
    inference.export(loaded, folder.parent / "again")


def test_a_fixed_batch(trained, tmp_path):
  # 5 images make two batches of 4, the last one filled up.
  card = inference.export(
    trained, tmp_path / "out", formats=("stablehlo", "onnx"), batch=4, images=some_images()
  )
  assert card["input"]["shape"][0] == 4 and card["compared_on"] == "5 given images"
  loaded = inference.load(tmp_path / "out")
  assert loaded.embed_batch(some_images(4)).shape == (4, 8)
  with pytest.raises(ValueError, match="takes batches of 4; got 5"):
    loaded.embed_batch(some_images())


def spoil(monkeypatch, change):
  write, read = exporting._WRITERS["stablehlo"]
  spoiled = lambda path: lambda images: change(np.array(read(path)(images)))
  monkeypatch.setitem(exporting._WRITERS, "stablehlo", (write, spoiled))


@pytest.mark.parametrize("change", [lambda z: z + 2e-4, lambda z: z * np.nan])
def test_other_embeddings_leave_nothing(workdir, tmp_path, monkeypatch, capsys, change):
  spoil(monkeypatch, change)
  out = tmp_path / "out"
  assert commands.main(["export", f"--workdir={workdir}", f"--out={out}"]) == 1
  assert "embeddings differ from the model's" in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_one_before(trained, folder, monkeypatch):
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  spoil(monkeypatch, lambda z: -z)
  with pytest.raises(inference.MismatchError):
    inference.export(trained, folder)
  assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_command(workdir, folder, tmp_path, capsys):
  images = tmp_path / "images" / "below"
  images.mkdir(parents=True)
  arguments = ["export", f"--workdir={workdir}", f"--images={images.parent}"]
  assert commands.main([*arguments, "--out=x"]) == 2
  assert "holds no image" in capsys.readouterr().err
  png = cv2.imencode(".png", np.zeros((3, 4), np.uint8))[1].tobytes()
  (images / "a.png").write_bytes(png)
  out = tmp_path / "out"
  arguments += [f"--out={out}"]
  assert commands.main(arguments) == 0
  printed = capsys.readouterr().out
  assert re.search(r"model.stablehlo: largest difference \S+ on 1 given images", printed)
  (images / "b.png").write_bytes(png[:40])
  (images / "c.png").symlink_to(tmp_path / "nothing")  # as everywhere: the one walk over pictures
  (images / "d.png").mkdir()
  (images / "._a.png").write_bytes(b"of a Mac")
  assert commands.main(arguments) == 0
  printed = capsys.readouterr()
  assert "left out: " in printed.err and "b.png: a PNG that is cut short" in printed.err
  assert "on 1 given images" in printed.out
  assert "c.png: it cannot be read: No such file" in printed.err
  assert printed.err.count("left out: ") == 2
  (images / "a.png").unlink()
  assert commands.main(arguments) == 2
  assert "none of the first 2 in" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--format=torch"], "--format: expected one of stablehlo, onnx, got 'torch'"),
    (["--batch_size=0"], "--batch_size: expected a whole number of at least 1"),
    (["--batch_size=many"], "--batch_size: expected a whole number of at least 1"),
    (["--workdir=nowhere"], "holds no run"),
    (["--out=OCCUPIED"], "holds other files"),
    (["--images=nowhere"], "expected a folder"),
  ],
)
def test_the_command_refuses(arguments, message, workdir, tmp_path, capsys):
  (tmp_path / "notes.txt").write_text("mine")
  arguments = [a.replace("OCCUPIED", str(tmp_path)) for a in arguments]
  given = ["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *arguments]
  assert commands.main(given) == 2
  assert message in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_exported_model_is_evaluated(workdir, folder, data_dir, capsys):
  assert commands.main(["evaluate", f"--workdir={folder}", f"--data_dir={data_dir}"]) == 0
  printed = capsys.readouterr()
  of_run = evaluate.evaluate(workdir, data_dir=data_dir)["metrics"]["trained model"]
  assert "digits test, by label: 896 queries" in printed.out and "note:" not in printed.err
  assert f"{of_run['recall@1']:.3f}" in printed.out and f"{of_run['map@r']:.3f}" in printed.out


def test_a_model_of_the_ball_keeps_its_lengths(data_dir, tmp_path):
  """Their distance knows how far from the middle they are."""
  keys = {"loss.name": "contrastive", "loss.distance": "hyperbolic"}
  write_run(tmp_path / "run", digits_config(data_dir, **keys))
  trained = inference.load(tmp_path / "run")
  assert trained.distance_fn.name == "hyperbolic"
  output = inference.export(trained, tmp_path / "out")["output"]
  assert (output["length"], output["ranked_by"]) == (None, "hyperbolic")
  loaded = inference.load(tmp_path / "out")
  assert loaded.distance_fn.name == "hyperbolic"
  got, expected = loaded.embed_batch(some_images()), trained.embed_batch(some_images())
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_onnx_refuses_bfloat16(data_dir, tmp_path):
  write_run(tmp_path / "run", digits_config(data_dir, **{"encoder.dtype": "bfloat16"}))
  with pytest.raises(inference.ExportError, match=r"bfloat16.*--format=stablehlo"):
    inference.export(inference.load(tmp_path / "run"), tmp_path / "out", formats=("onnx",))
  assert not (tmp_path / "out").exists()


def test_refuses_a_damaged_export(folder, tmp_path):
  (tmp_path / "model_card.json").write_bytes((folder / "model_card.json").read_bytes())
  with pytest.raises(checkpoints.CheckpointError, match=r"without model\.stablehlo"):
    inference.load(tmp_path)
  (tmp_path / "model.stablehlo").write_bytes(b"\0" * 100)
  with pytest.raises(checkpoints.CheckpointError, match=r"model\.stablehlo is damaged: it is not"):
    inference.load(tmp_path)


@pytest.mark.parametrize("name", ["model.stablehlo", "model_card.json"])
def test_a_flipped_bit_is_found(folder, tmp_path, name):
  for file in ("model.stablehlo", "model_card.json"):
    (tmp_path / file).write_bytes((folder / file).read_bytes())
  content, rng = (folder / name).read_bytes(), np.random.default_rng(0)
  card = inference.load(tmp_path)
  for at in rng.choice(len(content), 12, replace=False):
    damaged = bytearray(content)
    damaged[at] ^= 1 << rng.integers(8)
    (tmp_path / name).write_bytes(damaged)
    try:
      loaded = inference.load(tmp_path)
    except (checkpoints.CheckpointError, ConfigError) as error:
      assert name in str(error) and "export the model again" in str(error)
    else:  # A blank between the words of JSON.
      assert name == "model_card.json"
      assert (loaded.fingerprint, loaded.config) == (card.fingerprint, card.config)


def test_a_card_that_was_changed_is_refused(folder, tmp_path):
  (tmp_path / "model.stablehlo").write_bytes((folder / "model.stablehlo").read_bytes())
  card = json.loads((folder / "model_card.json").read_text())
  for change in ({"step": 4}, {"fingerprint": "0" * 16}, {"dimension": 9}, {"seal": ""}):
    (tmp_path / "model_card.json").write_text(json.dumps(card | change))
    with pytest.raises(ConfigError, match="is damaged, or no model card of this version"):
      inference.load(tmp_path)


@pytest.mark.slow
def test_the_page_runs_without_jaxdml(folder, trained, tmp_path):
  images = some_images()
  np.save(tmp_path / "images.npy", images)
  (tmp_path / "exported").symlink_to(folder)
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
  alone = [b for b in blocks if "jaxdml" not in b]
  assert len(alone) == 2
  expected = trained.embed_batch(images)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  for number, block in enumerate(alone):
    path = tmp_path / f"block{number}.py"
    save = 'np.save("embeddings.npy", np.asarray(embeddings))'
    path.write_text(f"import sys; sys.modules['jaxdml'] = None\n{block}\n{save}\n")
    subprocess.run([sys.executable, path], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, atol=1e-6)
