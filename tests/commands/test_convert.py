"""The converter: every family from a file as it is published, and files that are none."""

import pathlib
import pickle
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxdml import _files, commands, models, pretrained
from jaxdml.pretrained import files
from tests.pretrained import torch_files
from tests.pretrained.published import published, without_libraries
from tests.pretrained.test_state_dicts import Evil


def run(arch, source, out, *options):
  given = ["--arch", arch, "--source", str(source), "--out", str(out)]
  return commands.main(["convert", *given, *options])


def refused(capsys, arch, source, out, *options):
  """The message of a conversion that must fail, leaving nothing behind."""
  before = sorted(out.parent.iterdir())
  assert run(arch, source, out, *options) == 2
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err.startswith("error: ")
  assert sorted(out.parent.iterdir()) == before
  return captured.err


def test_resnet_from_a_training_script_s_file(tmp_path, capsys):
  arrays = published("resnet18")
  wrapped = {f"module.{name}": array for name, array in arrays.items()}
  wrapped["module.bn1.num_batches_tracked"] = np.array(3)
  source = torch_files.save(tmp_path / "r.pth", {"epoch": 3, "state_dict": wrapped})
  assert run("resnet18", source, tmp_path / "new" / "w") == 0
  text = capsys.readouterr().out
  assert "11,176,512 parameters, and a classifier of 7 classes" in text
  assert f"--config.encoder.init={tmp_path / 'new' / 'w'}" in text
  params, stats, card = pretrained.load(tmp_path / "new" / "w", models.create("resnet18"))
  assert (card.arch, card.source, card.classes) == ("resnet18", "r.pth", 7)
  assert card.sha256 == _files.sha256(source) and len(card.sha256) == 64
  assert card.preprocessing == models.published_encoders()["resnet18"].preprocessing
  kernel = arrays["layer2.0.conv1.weight"]
  np.testing.assert_array_equal(params["layer2_0"]["conv1"]["kernel"], kernel.transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(stats["layer4_1"]["bn2"]["var"], arrays["layer4.1.bn2.running_var"])
  head = pretrained.load_classifier(tmp_path / "new" / "w")
  np.testing.assert_array_equal(head["kernel"], arrays["fc.weight"].T)


def test_resnet_from_timm_with_its_preprocessing_and_no_classifier(tmp_path):
  safetensors = pytest.importorskip("safetensors.numpy", reason="needs pip install '.[convert]'")
  arrays = published("resnet18")
  arrays = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
  halved = {name: array.astype(np.float16) for name, array in arrays.items()}
  safetensors.save_file(halved, tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text(
    '{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, '
    '0.1], "input_size": [3, 160, 160], "crop_pct": 0.95, "interpolation": "bicubic"}}'
  )
  assert run("resnet18", tmp_path / "model.safetensors", tmp_path / "w") == 0
  params, _, card = pretrained.load(tmp_path / "w", models.create("resnet18"))
  assert card.preprocessing == pretrained.Preprocessing(
    (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "rgb", 160, 0.95, "bicubic"
  )
  assert card.classes == 0 and pretrained.load_classifier(tmp_path / "w") == {}
  assert params["conv1"]["kernel"].dtype == np.float32
  np.testing.assert_array_equal(params["bn1"]["scale"], halved["bn1.weight"])


def test_bfloat16_safetensors(tmp_path):
  safetensors = pytest.importorskip("safetensors.numpy", reason="needs pip install '.[convert]'")
  array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
  safetensors.save_file({"a": array}, tmp_path / "b.safetensors")
  np.testing.assert_array_equal(files.read(tmp_path / "b.safetensors")["a"], [1.5, -2.0])


@pytest.mark.parametrize("suffixes", [("/weights", "/biases"), ("_w", "_b"), ("_w_0", "_b_0")])
def test_googlenet_from_caffe_caffe2_and_onnx(tmp_path, suffixes):
  arrays = published("googlenet")
  kernel = arrays["inception_4e/5x5/weights"]
  theirs = {}
  for name, array in arrays.items():
    layer, kind = name.rsplit("/", 1)
    if suffixes[0] == "/weights" and kind == "biases":
      array = array.reshape(1, 1, 1, -1)  # as older versions of Caffe
    theirs[layer + suffixes[kind == "biases"]] = array
  theirs["OC2_DUMMY_1"] = np.array([1, 1024])
  theirs["loss1/classifier" + suffixes[0]] = np.zeros((3, 4), np.float32)
  np.savez(tmp_path / "g.npz", **theirs)
  assert run("googlenet", tmp_path / "g.npz", tmp_path / "w") == 0
  params, stats, card = pretrained.load(tmp_path / "w", models.create("googlenet"))
  assert stats == {} and card.preprocessing.channel_order == "bgr"
  np.testing.assert_allclose(np.multiply(card.preprocessing.mean, 255), (104, 117, 123))
  found = params["inception_4e"]["5x5"]["conv"]
  np.testing.assert_array_equal(found["kernel"], kernel.transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(found["bias"], arrays["inception_4e/5x5/biases"])


def test_googlenet_bn_without_torchvision_s_auxiliary_classifiers(tmp_path):
  arrays = published("googlenet_bn")
  extra = {"aux1.fc1.weight": np.zeros((3, 4)), "aux2.conv.bn.bias": np.zeros(3)}
  assert (
    run("googlenet_bn", torch_files.save(tmp_path / "g.pth", arrays | extra), tmp_path / "w") == 0
  )
  params, _, _ = pretrained.load(tmp_path / "w", models.create("googlenet_bn"))
  kernel = arrays["inception5b.branch3.1.conv.weight"]
  assert kernel.shape == (128, 48, 3, 3)
  found = params["inception_5b"]["5x5"]["conv"]["kernel"]
  np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))


def test_bn_inception_with_the_published_file_s_batchnorm_shapes(tmp_path):
  arrays = published("bn_inception")
  theirs = {n: a[None] if "_bn." in n else a for n, a in arrays.items()}
  source = torch_files.save(tmp_path / "b.pth", theirs, old=True)  # as in 2018
  assert run("bn_inception", source, tmp_path / "w") == 0
  params, stats, card = pretrained.load(tmp_path / "w", models.create("bn_inception"))
  np.testing.assert_allclose(np.multiply(card.preprocessing.mean, 255), (104, 117, 128))
  found = params["inception_3c"]["double_3x3_2"]
  assert sorted(found["conv"]) == ["bias", "kernel"]
  np.testing.assert_array_equal(found["bn"]["scale"], arrays["inception_3c_double_3x3_2_bn.weight"])
  np.testing.assert_array_equal(stats["conv2"]["bn"]["mean"], arrays["conv2_3x3_bn.running_mean"])


def test_every_family_says_where_its_file_is_from(capsys):
  assert commands.main(["convert", "--help"]) == 0
  text = " ".join(capsys.readouterr().out.split())
  for arch, weights in models.published_encoders().items():
    assert f"{arch}: {weights.file}" in text


def test_another_architecture_s_file_is_recognised(tmp_path, capsys):
  np.savez(tmp_path / "r.npz", **published("resnet18"))
  for arch in ("resnet50", "googlenet", "vit_s16"):
    message = refused(capsys, arch, tmp_path / "r.npz", tmp_path / "w")
    assert f"is not of {arch}: this looks like resnet18; use --arch resnet18" in message


def test_names_and_shapes_that_differ_are_listed(tmp_path, capsys):
  arrays = published("resnet18")
  arrays["stem.weight"] = arrays.pop("conv1.weight")
  arrays["layer1.0.conv1.weight"] = np.zeros((64, 64, 5, 5), np.float32)
  arrays["layer3.1.bn2.bias"][5] = np.nan
  arrays["fc.weight"] = np.zeros((7, 2048), np.float32)
  np.savez(tmp_path / "r.npz", **arrays)
  message = refused(capsys, "resnet18", tmp_path / "r.npz", tmp_path / "w")
  for line in (
    "missing (1): conv1.weight [64, 3, 7, 7]\n",
    "left over (1): stem.weight [64, 3, 7, 7]\n",
    "wrong shape (2): layer1.0.conv1.weight (expected [64, 64, 3, 3], found [64, 64, 5, 5]), "
    "fc.weight (expected [classes, 512], found [7, 2048])\n",
    "NaN or infinite (1): layer3.1.bn2.bias\n",
  ):
    assert line in message


def test_an_empty_state_lists_ten_names(tmp_path, capsys):
  np.savez(tmp_path / "r.npz", conv=np.zeros(3))
  message = refused(capsys, "resnet18", tmp_path / "r.npz", tmp_path / "w")
  assert "missing (100)" in message and "and 90 more" in message and message.count("\n") == 3


@pytest.mark.parametrize("kind", ["zip", "2018", "pickle", "npz"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, capsys, kind):
  witness = tmp_path / "ran"
  content = {"conv1.weight": np.zeros(3, np.float32), "evil": Evil(witness)}
  if kind == "npz":
    source = tmp_path / "e.npz"
    np.savez(source, evil=np.array(content, dtype=object))
  elif kind == "pickle":
    source = tmp_path / "e.pth"
    source.write_bytes(pickle.dumps(content, protocol=4))
  else:
    content["evil"] = torch_files.Raw(pickle.dumps(Evil(witness), 2)[2:-1])
    source = torch_files.save(tmp_path / "e.pth", content, old=kind == "2018")
  message = refused(capsys, "resnet18", source, tmp_path / "w")
  assert "refused" in message and "code" in message
  assert not witness.exists()


def whole_file(tmp_path, suffix):
  """A file that reads well, to cut."""
  path, array = tmp_path / f"whole{suffix}", np.arange(5000, dtype=np.float32)
  if suffix == ".npz":
    np.savez(path, a=array)
  elif suffix == ".safetensors":
    library = pytest.importorskip("safetensors.numpy", reason="needs pip install '.[convert]'")
    library.save_file({"a": array}, path)
  else:
    torch_files.save(path, {"a": array}, old=suffix == ".pt")
  np.testing.assert_array_equal(files.read(path)["a"], array)
  return path.read_bytes()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".npz"])
def test_truncated_files_and_other_files(tmp_path, capsys, suffix):
  whole = whole_file(tmp_path, suffix)
  cuts = {f"cut{n}": whole[: n * len(whole) // 8] for n in range(8)} | {"byte": whole[:1]}
  others = {"page": b"<!DOCTYPE html><html>404</html>", "photo": b"\xff\xd8\xff\xe0" + bytes(99)}
  for name, content in (cuts | others).items():
    source = tmp_path / f"{name}{suffix}"
    source.write_bytes(content)
    message = refused(capsys, "resnet18", source, tmp_path / "w")
    assert "copy or download it again" in message and str(source) in message


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }\n"


@pytest.mark.parametrize(
  "header", [HEADER % 2**50, "{'a(\n", "{'descr': '<f4'\n", "()\n", HEADER % 4, "\0\0", "[" * 9999],
  ids=["claims 4 PiB", "open text", "open brackets", "no dict", "no values", "null", "deep"],
)  # fmt: skip
def test_a_malformed_header_of_an_npz(tmp_path, capsys, header):
  source = tmp_path / "a.npz"
  size = len(header).to_bytes(2, "little")
  with zipfile.ZipFile(source, "w") as archive:
    archive.writestr("conv1/weights.npy", b"\x93NUMPY\x01\x00" + size + header.encode())
  message = refused(capsys, "googlenet", source, tmp_path / "w")
  assert "copy or download it again" in message and str(source) in message


def test_an_npz_that_unpacks_to_far_more_is_not_unpacked(tmp_path, capsys):
  np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(2**22, np.float32))
  message = refused(capsys, "googlenet", tmp_path / "a.npz", tmp_path / "w")
  assert "over 100 times its own size" in message


def test_a_missing_library_says_what_to_install(tmp_path, capsys, monkeypatch):
  source = tmp_path / "a.safetensors"
  source.write_bytes(b"content")
  without_libraries(monkeypatch, "safetensors")
  message = refused(capsys, "resnet18", source, tmp_path / "w")
  assert "pip install safetensors, or pip install '.[convert]'" in message


def test_what_is_no_state_dict_is_refused(tmp_path, capsys):
  content = {"epoch": 3, "arguments": {"lr": 1}}
  source = torch_files.save(tmp_path / "a.pth", content)
  assert "keys ['epoch', 'arguments']" in refused(capsys, "resnet18", source, tmp_path / "w")
  module = torch_files.Raw(torch_files.named("torch.nn.modules.linear", "Linear") + b")\x81")
  torch_files.save(source, module)
  message = refused(capsys, "resnet18", source, tmp_path / "w")
  assert "torch.nn.modules.linear.Linear" in message and "state_dict()" in message


def test_wrong_paths(tmp_path, capsys):
  assert "no such file" in refused(capsys, "resnet18", tmp_path / "a.pth", tmp_path / "w")
  source = tmp_path / "a.caffemodel"
  source.write_bytes(b"x")
  assert ".safetensors, .npz" in refused(capsys, "resnet18", source, tmp_path / "w")
  np.savez(tmp_path / "a.npz", a=np.zeros(3))
  options = ("--model_config", str(source))
  message = refused(capsys, "resnet18", tmp_path / "a.npz", tmp_path / "w", *options)
  assert "expected timm's config.json" in message


def test_output_is_whole_or_absent_and_never_somebody_else_s(tmp_path, capsys, monkeypatch):
  source, out = tmp_path / "r.npz", tmp_path / "w"
  np.savez(source, **published("googlenet"))
  photos = tmp_path / "photos"
  photos.mkdir()
  (photos / "a.jpg").write_bytes(b"x")
  assert "give another --out" in refused(capsys, "googlenet", source, photos)
  assert "leaves it alone" in refused(capsys, "googlenet", source, photos, "--overwrite")
  assert (photos / "a.jpg").exists()

  assert run("googlenet", source, out) == 0
  first = jax.tree.leaves(pretrained.load(out, models.create("googlenet"))[:2])
  capsys.readouterr()
  assert "--overwrite" in refused(capsys, "googlenet", source, out)
  np.savez(source, **published("googlenet", seed=1))
  with monkeypatch.context() as patch:
    # The disk is full when the card, the last file, is to be written.
    def full(self, *args, **kwargs):
      raise OSError(28, "No space left on device")

    patch.setattr(pathlib.Path, "write_bytes", full)
    message = refused(capsys, "googlenet", source, out, "--overwrite")
  assert "cannot write" in message and "No space left on device" in message
  kept = jax.tree.leaves(pretrained.load(out, models.create("googlenet"))[:2])
  jax.tree.map(np.testing.assert_array_equal, kept, first)
  assert run("googlenet", source, out, "--overwrite") == 0
  new = jax.tree.leaves(pretrained.load(out, models.create("googlenet"))[:2])
  assert not np.array_equal(new[0], first[0])
  assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "r.npz", "w"]
