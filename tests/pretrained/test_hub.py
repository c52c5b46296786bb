"""Weights by one line: from a hub, a file and a folder; each failure is one line."""

import dataclasses
import functools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxdml import commands, models, pretrained, training
from jaxdml.models import base
from jaxdml.models.resnet import BasicBlock, ResNet
from jaxdml.pretrained import hub, pixels, store
from jaxdml.training.config import ConfigError
from tests.pretrained import torch_files
from tests.pretrained.hub_server import serving
from tests.pretrained.published import published, without_libraries
from tests.pretrained.test_state_dicts import Evil
from tests.training.helpers import tiny_config

safetensors = pytest.importorskip("safetensors.numpy", reason="needs pip install '.[hub]'")
client = pytest.importorskip("huggingface_hub", reason="needs pip install '.[hub]'")
constants = pytest.importorskip("huggingface_hub.constants", reason="needs pip install '.[hub]'")
REPO = "someone/tiny"
TIMM = {
  "architecture": "tiny",
  "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": [3, 160, 160],
                     "crop_pct": 0.95, "interpolation": "bicubic"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  """Two small encoders with published weights, "tiny" with a usual repository, and few others."""
  for name in set(models.ENCODERS) - {"resnet18", "convnet"}:
    monkeypatch.delitem(models.ENCODERS, name)
  for name, width, repo in (("tiny", 4, REPO), ("wider", 6, "")):
    fits = dataclasses.replace(models.ENCODERS["resnet18"].published, hub=repo, file=f"{name}.pth")
    make = functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, width=width)
    monkeypatch.setitem(models.ENCODERS, name, base.Entry(make, fits))


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
  """Both caches are somewhere else, and nothing is remembered."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "theirs"))
  hub.forget()
  yield tmp_path
  hub.forget()


@pytest.fixture
def server(monkeypatch):
  with serving() as running:
    # What HF_ENDPOINT sets when the client is imported.
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between its tries
    yield running


def arrays(arch="tiny", seed=0):
  return published(arch, seed=seed)


def as_safetensors(values):
  return safetensors.save(values)


def timm_files(seed=0):
  return {"model.safetensors": as_safetensors(arrays(seed=seed)),
          "config.json": json.dumps(TIMM).encode(), "README.md": b"#"}  # fmt: skip


def started(init, arch="tiny"):
  """What a new process would get."""
  hub.forget()
  weights, card = hub.load(init, arch)
  hub.forget()
  return weights, card


def assert_equal(weights, values):
  kernel = weights["params"]["layer2_0"]["conv1"]["kernel"]
  np.testing.assert_array_equal(kernel, values["layer2.0.conv1.weight"].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(weights["classifier"]["bias"], values["fc.bias"])


def test_a_repository_is_downloaded_once_converted_once_and_asked_once(server, caches):
  commit = server.add(REPO, timm_files())
  weights, card = started(f"hf:{REPO}")
  assert_equal(weights, arrays())
  assert card.source == f"model.safetensors of {REPO}@{commit[:12]}"
  assert (card.preprocessing.image_size, card.preprocessing.crop_pct) == (160, 0.95)
  asked = {path.split("?")[0] for _, path in server.requests}
  assert asked == {
    f"/api/models/{REPO}/revision/main",
    f"/{REPO}/resolve/{commit}/config.json", f"/{REPO}/resolve/{commit}/model.safetensors",
  }  # fmt: skip
  # The usual repository by the encoder's name alone: the same, and nothing is asked for any more.
  server.requests.clear()
  server.add(REPO, timm_files(seed=1))
  for init in (f"hf:{REPO}", "hf:", f"hf:{REPO}@{commit}"):
    again, same = started(init)
    assert same == card
    jax.tree.map(np.testing.assert_array_equal, again, weights)
  assert server.requests == []
  # Another version of the converter finds the download.
  (kept,) = (caches / "ours" / "jaxdml" / "hub" / "someone--tiny").glob("tiny-*")
  shutil.rmtree(kept)
  assert started("hf:")[1] == card and server.requests == []


def test_revisions_are_kept_apart(server):
  old = server.add(REPO, timm_files())
  server.add(REPO, timm_files(seed=1), **{"refs/pr/1": old})
  assert_equal(started(f"hf:{REPO}@refs/pr/1")[0], arrays())
  assert_equal(started(f"hf:{REPO}")[0], arrays(seed=1))
  assert_equal(started(f"hf:{REPO}@{old}")[0], arrays())


def test_transformers_shards_and_its_image_processor(server):
  values = arrays()
  names = sorted(values)
  parts = {
    "model-1-of-2.safetensors": names[::2],
    "model-2-of-2.safetensors": names[1::2],
  }
  index = {"metadata": {}, "weight_map": {n: file for file, group in parts.items() for n in group}}
  processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
  processor |= {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}
  processor["do_center_crop"] = True
  files = {file: as_safetensors({n: values[n] for n in group}) for file, group in parts.items()}
  files |= {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": b"{}",
            "preprocessor_config.json": json.dumps(processor).encode()}  # fmt: skip
  server.add(REPO, files)
  weights, card = started("hf:")
  assert_equal(weights, values)
  assert card.preprocessing == base.Preprocessing(
    (0.5,) * 3, (0.25,) * 3, "rgb", 48, 0.75, "bicubic"
  )


def test_pytorchs_pickles_are_read_without_code(server, tmp_path):
  torch_files.save(tmp_path / "p.bin", arrays())
  server.add(
    REPO, {"pytorch_model.bin": (tmp_path / "p.bin").read_bytes(), "training_args.bin": b"?"}
  )
  weights, card = started("hf:")
  assert_equal(weights, arrays())
  assert card.preprocessing == models.ENCODERS["tiny"].published.preprocessing


def test_offline_with_a_copy_and_without(server, monkeypatch):
  server.add(REPO, timm_files())
  client.hf_hub_download(REPO, "model.safetensors")
  client.hf_hub_download(REPO, "config.json")
  server.requests.clear()
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  weights, card = started("hf:")  # Downloaded, say by `hf download`.
  assert_equal(weights, arrays())
  assert card.preprocessing.crop_pct == 0.95
  assert_equal(started("hf:")[0], arrays())  # Converted.
  message = wrong("hf:someone/else")
  assert f"get {server.url}/someone/else/resolve/main/model.safetensors and config.json" in message
  assert "put both into a folder, and give that folder in place of hf:..." in message
  assert server.requests == []


def test_no_network(monkeypatch):
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
  assert "hf:someone/tiny cannot be reached (" in (message := wrong("hf:"))
  assert "get http://127.0.0.1:9/someone/tiny/resolve/main/model.safetensors" in message


def wrong(init, arch="tiny"):
  """The one line of weights that cannot be had; a config's names the key."""
  with pytest.raises(pretrained.WeightsError) as raised:
    started(init, arch)
  message = str(raised.value)
  assert "\n" not in message
  config = tiny_config(**{"encoder.name": arch, "encoder.init": init, "data.channels": 3})
  config.encoder.options = {}
  with pytest.raises(ConfigError) as caught:
    training.resolve(config)
  assert str(caught.value) == f"config.encoder.init: {message}"
  return message


def test_what_cannot_be_had(server):
  server.add(REPO, timm_files())
  page = f"{server.url}/{REPO}"
  assert "hf:someone/typo is no repository of" in wrong("hf:someone/typo")
  assert f"has no revision 'v9' (any more): {page}/commits/main" in wrong(f"hf:{REPO}@v9")
  server.gated.add(REPO)
  message = wrong("hf:")
  assert message == (
    f"hf:{REPO} is gated: accept its licence on {page}, then log in by `hf auth login`, or set "
    "HF_TOKEN"
  )
  server.add("someone/none", {"README.md": b"#", "model.onnx": b"?", "tf_model.h5": b"?"})
  assert "has no weights of a known kind (.safetensors, .bin" in wrong("hf:someone/none")
  server.add("someone/many", {"a.safetensors": b"?", "b.safetensors": b"?"})
  assert "several files of weights: a.safetensors, b.safetensors" in wrong("hf:someone/many")
  for init in ("hf:a/b/c", "hf:@", "hf:some one"):
    assert "expected hf:ORG/NAME, hf:ORG/NAME@REVISION, or hf:" in wrong(init)
  assert "wider has no usual one; expected hf:ORG/NAME" in wrong("hf:", "wider")
  assert "no published weights fit convnet" in wrong(f"hf:{REPO}", "convnet")


def test_another_encoders_weights(server):
  server.add("someone/wider", {"model.safetensors": as_safetensors(arrays("wider"))})
  message = wrong("hf:someone/wider")
  assert "is not of tiny: this looks like wider; use --arch wider, or encoder.name=wider" in message
  # Where shapes would fit, too: the repository is known to be another's.
  assert f"hf:{REPO} holds weights of tiny; set encoder.name=tiny" in wrong(f"hf:{REPO}", "wider")


def test_weights_that_several_encoders_fit_need_a_name(server, monkeypatch, tmp_path, capsys):
  twin = models.ENCODERS["tiny"]
  twin = twin._replace(published=dataclasses.replace(twin.published, hub="someone/twin"))
  monkeypatch.setitem(models.ENCODERS, "twin", twin)
  np.savez(tmp_path / "t.npz", **arrays())
  given = ["convert", f"--source={tmp_path / 't.npz'}", f"--out={tmp_path / 'out'}"]
  assert commands.main(given) == 2
  assert "t.npz may be of tiny, twin; say which by --arch" in capsys.readouterr().err
  server.add("someone/twin", timm_files())
  given[1] = "--source=hf:someone/twin"
  assert commands.main(given) == 0 and store.read_card(tmp_path / "out").arch == "twin"


def test_a_pickle_that_needs_code_is_refused(server, tmp_path):
  target = tmp_path / "made"
  evil = pickle.dumps({"a": Evil(target)}, protocol=2)
  server.add("someone/evil", {"pytorch_model.bin": evil})
  assert "reading it could run any code, so it is refused" in wrong("hf:someone/evil")
  assert not target.exists()


def test_downloads_that_are_cut_short_or_changed(server, caches):
  server.add(REPO, timm_files())
  server.cut.add("model.safetensors")
  assert f"hf:{REPO} came cut short (" in wrong("hf:")
  assert not list((caches / "theirs").rglob("model.safetensors"))
  server.cut.clear()
  server.lies.add("model.safetensors")
  assert "(another SHA-256): delete it" in wrong("hf:")
  server.lies.clear()
  damaged = timm_files()
  damaged["model.safetensors"] = damaged["model.safetensors"][:-100]
  server.add("someone/damaged", damaged)
  assert "is cut short, damaged or no .safetensors file at all" in wrong("hf:someone/damaged")
  assert_equal(started("hf:")[0], arrays())


def test_files_and_folders_of_this_machine(tmp_path, capsys):
  folder = tmp_path / "snapshot"
  folder.mkdir()
  for name, content in timm_files().items():
    (folder / name).write_bytes(content)
  weights, card = started(str(folder))
  assert_equal(weights, arrays())
  assert card.source == "model.safetensors" and card.preprocessing.image_size == 160
  # The pixels belong to what is kept, too.
  (folder / "config.json").unlink()
  assert started(str(folder / "model.safetensors"))[1].preprocessing.image_size == 224
  # A file that is written anew is another one.
  (folder / "model.safetensors").write_bytes(as_safetensors(arrays(seed=1)))
  assert_equal(started(str(folder))[0], arrays(seed=1))
  source = torch_files.save(tmp_path / "t.pth", arrays(seed=2))
  assert_equal(started(str(source))[0], arrays(seed=2))
  np.savez(tmp_path / "t.npz", **arrays(seed=3))
  assert_equal(started(str(tmp_path / "t.npz"))[0], arrays(seed=3))
  # A config's, which has the pixels in it then.
  config = tiny_config(
    **{"encoder.name": "tiny", "data.channels": 3, "data.preprocess": "standard"}
  )
  config.encoder.options, config.encoder.init = {}, str(folder)
  assert training.resolve(config).data.normalize == "imagenet"

  assert "no such file or directory; expected hf:ORG/NAME, a file" in wrong(
    str(tmp_path / "nothing")
  )
  (tmp_path / "empty").mkdir()
  assert "empty has no weights of a known kind" in wrong(str(tmp_path / "empty"))
  (folder / "model.safetensors").write_bytes(b"")
  assert "is empty; copy or download it again" in wrong(str(folder))
  out = tmp_path / "out"
  given = ["convert", f"--source={tmp_path / 't.npz'}", f"--out={out}"]
  assert commands.main(given) == 0  # Its encoder is found by the names.
  assert pretrained.read_card(out).arch == "tiny" and started(str(out))[1].source == "t.npz"


def test_without_the_client_or_where_nothing_can_be_kept(server, caches, monkeypatch):
  server.add(REPO, timm_files())
  (caches / "ours").write_text("no directory")
  with pytest.warns(UserWarning, match="converted at each start: cannot write"):
    assert_equal(started("hf:")[0], arrays())
  without_libraries(monkeypatch, "huggingface_hub")
  with pytest.raises(
    pretrained.WeightsError, match=r"needs the hub's client: pip install 'jaxdml\[hub"
  ):
    started("hf:someone/other")


@pytest.mark.parametrize(
  "config, expected",
  [
    ({"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "crop_pct": 1.0},
     ((0.5,) * 3, (0.5,) * 3, 32, 1.0, "bilinear")),  # timm's older form
    ({"model_cfg": {}, "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "size": [48, 48],
                                          "interpolation": "bicubic"}},
     ((0.1,) * 3, (0.2,) * 3, 48, 1.0, "bicubic")),  # OpenCLIP's
    ({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
      "size": {"height": 40, "width": 40}}, ((0.5,) * 3, (0.5,) * 3, 40, 1.0, "bilinear")),
    ({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3,
      "size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_center_crop": False},
     ((0.5,) * 3, (0.5,) * 3, 224, 0.875, "bicubic")),  # ConvNeXt's
    ({"do_normalize": True, "image_mean": [127.5] * 3, "image_std": [51.0] * 3, "size": 64,
      "do_rescale": False, "resample": 1}, ((0.5,) * 3, (0.2,) * 3, 64, 1.0, "bilinear")),
    ({"do_normalize": False, "do_rescale": True, "size": 64, "rescale_factor": 1 / 127.5},
     ((0.0,) * 3, (0.5,) * 3, 64, 1.0, "bilinear")),
    ({"hidden_size": 384}, None),
    ({"mean": [0.5], "std": [0.5]}, None),
    ([], None),
  ],
)  # fmt: skip
def test_preparations_of_pixels_as_others_write_them(tmp_path, config, expected):
  (tmp_path / "any.json").write_text(json.dumps(config))
  found = pixels.read(tmp_path / "any.json", base.Preprocessing())
  if expected:
    mean, std, *rest = expected
    expected = base.Preprocessing(mean, std, "rgb", *rest)
  assert found == expected


@pytest.mark.slow
def test_the_command_by_the_clients_own_environment(server, tmp_path, monkeypatch):
  """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in processes of their own."""
  values = published("resnet18")
  server.add("someone/resnet", {"model.safetensors": as_safetensors(values)})
  here = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
  given = ["convert", "--arch=resnet18", "--source=hf:someone/resnet"]
  for number, more in enumerate(({}, {"HF_HUB_OFFLINE": "1"})):
    out = tmp_path / str(number)
    done = subprocess.run(
      [sys.executable, "-m", "jaxdml", *given, f"--out={out}"],
      env=os.environ | here | more, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resnet18: " in done.stdout
    if not number:
      server.requests.clear()
  assert server.requests == []
  assert store.read_card(out).source.startswith("model.safetensors of someone/resnet@")
