"""Files of PyTorch, read without it: what they hold, and that hostile ones run nothing."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from jaxdml.pretrained import ConvertError, files
from tests.pretrained import torch_files
from tests.pretrained.torch_files import Raw, Strided, call, integer, named, several, text

both = pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
ARRAY = np.arange(6, dtype=np.float32)


def refused(path, content, match):
  """The message, one line, of a file that must not be read."""
  path.write_bytes(content)
  with pytest.raises(ConvertError, match=match) as raised:
    files.read(path)
  message = str(raised.value)
  assert message.startswith(str(path)) and "\n" not in message and len(message) < 600
  return message


@both
@pytest.mark.parametrize("dtype", torch_files.DTYPES, ids=str)
def test_every_type(tmp_path, old, dtype):
  array = np.array([[0, 1, 2], [3, 100, 5]]).astype(dtype)
  path = torch_files.save(tmp_path / "a.pth", {"a": array, "n": 3, "s": array[0, 1:2]}, old)
  found = files.read(path)
  assert list(found) == ["a", "s"]
  floating = dtype.kind in "fV"
  assert found["a"].dtype == (np.float32 if floating else dtype)
  np.testing.assert_array_equal(found["a"], array.astype(found["a"].dtype))
  np.testing.assert_array_equal(found["s"], [1])


@both
def test_strides_and_shared_storages(tmp_path, old):
  grid = ARRAY.reshape(2, 3)
  views = {
    "plain": (grid, 0, (3, 1)), "transposed": (grid.T, 0, (1, 3)), "row": (grid[1], 3, (1,)),
    "column": (grid[:, 2], 2, (3,)), "scalar": (grid[1, 1], 4, ()), "empty": (grid[:0], 6, (3, 1)),
    "repeated": (np.broadcast_to(grid[:, :1], (2, 4)), 0, (3, 0)),
    "one": (grid[1:, 2:], 5, (2**61, 9)),  # of an axis of one any stride
  }  # fmt: skip
  tree = {k: Strided(ARRAY, start, a.shape, steps) for k, (a, start, steps) in views.items()}
  found = files.read(torch_files.save(tmp_path / "a.pth", tree, old))
  for name, (array, _, _) in views.items():
    assert found[name].shape == array.shape
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_state_dict_of_python_2(tmp_path):
  """Texts are bytes, an OrderedDict is called with a list of pairs, a state hangs on it."""
  tensor = torch_files.Pickler(old=True).code(ARRAY)
  parameter = call("torch._utils", "_rebuild_parameter", tensor, b"\x88", b"}")
  ordered = named("collections", "OrderedDict") + several(b"](](U\x01a" + parameter + b"ee")
  state = Raw(ordered + b"R}U\x09_metadata}sb")
  path = torch_files.save(tmp_path / "a.pth", {"x": 1, "state_dict": state}, old=True)
  path.write_bytes(path.read_bytes().replace(b"](e.", b"](U\x010e."))
  with path.open("ab") as file:
    file.write(struct.pack("<q", 6) + ARRAY.tobytes())
  ((name, found),) = files.read(path).items()
  assert name == "a"
  np.testing.assert_array_equal(found, ARRAY)


class Evil:
  """Makes a folder while it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def hostile(witness):
  """Programs that would make the folder `witness`, and a name that the message has."""
  command = f"os.mkdir({str(witness)!r})"
  by_text = lambda module, name: text(module) + text(name) + b"\x93"  # STACK_GLOBAL
  evaluate = b"(" + text(f"__import__('os').mkdir({str(witness)!r})") + b"tR"
  return {
    "GLOBAL": (call("os", "mkdir", text(str(witness))), "os.mkdir"),
    "posix": (call("posix", "system", text(f"mkdir {witness}")), "posix.system"),
    "eval": (named("builtins", "eval") + evaluate, "builtins.eval"),
    "STACK_GLOBAL": (by_text("builtins", "eval") + evaluate, "builtins.eval"),
    "exec": (by_text("builtins", "exec") + b"(" + text("import os; " + command) + b"tR", "exec"),
    "dotted": (by_text("torch", "_utils._rebuild_tensor_v2.__globals__") + b")R", "__globals__"),
    "getattr": (call("builtins", "getattr", integer(1), text("real")), "builtins.getattr"),
    "partial": (named("functools", "partial") + b")R", "functools.partial"),
    "loads": (call("torch.storage", "_load_from_bytes", text("x")), "_load_from_bytes"),
    "module": (named("torch.nn.modules.linear", "Linear") + b")\x81", r"linear\.Linear"),
    "screen": (b"c\x1b[2J\nboo\n)R", r"\?\?2J\.boo"),
    "a storage called": (call("torch", "FloatStorage", integer(9)), r"torch\.FloatStorage"),
  }


@both
@pytest.mark.parametrize("kind", hostile("x"))
def test_code_is_named_and_not_run(tmp_path, old, kind):
  witness = tmp_path / "ran"
  code, name = hostile(witness)[kind]
  content = torch_files.content({"a": ARRAY, "evil": Raw(code)}, old)
  refused(tmp_path / "a.pth", content, rf"needs code to be read \(.*{name}.*\), .*refused")
  assert not witness.exists()


NO_STATE_DICT = {
  "INST": b"(ios\nmkdir\n", "OBJ": b"(" + named("collections", "OrderedDict") + b"o",
  "NEWOBJ": named("collections", "OrderedDict") + b")\x81", "EXT1": b"\x82\x01",
  "a call of a number": integer(3) + b")R", "a call of a text": text("eval") + b")R",
  "a call with a list": named("collections", "OrderedDict") + b"]R",
  "state for a name": named("torch", "Size") + b"}b", "state for a list": b"]}b",
  "state for a tensor": integer(1) + b"}b", "nothing there": b"0" * 3, "no mark": b"t",
  "no such memo": b"h\x07", "memo of 2^31": b"r\xff\xff\xff\x7fj\xfe\xff\xff\x7f",
  "a key that is a list": b"}](s" + b"]", "a key that is a tuple": b"})Ns",
  "text of 4 GB": b"X\xff\xff\xff\xff", "text of 2^62 bytes": b"\x8d" + struct.pack("<Q", 2**62),
  "a number of 2 GB": b"\x8b\xff\xff\xff\x7f", "a person's id": b"Pzero\n",
  "a storage that is a number": integer(3) + b"Q",
  "a storage of a dict": several(text("storage"), named("collections", "OrderedDict"), text("0"),
                                 text("cpu"), integer(3)) + b"Q",
  "a tensor of no storage": call("torch._utils", "_rebuild_tensor_v2", integer(1), integer(0),
                                 several(), several(), b"\x89", b"}"),
  "a tensor of texts": call("torch._utils", "_rebuild_tensor_v2", integer(1), text("a"),
                            several(text("a")), several(text("b")), b"\x89", b"}"),
}  # fmt: skip


@both
@pytest.mark.parametrize("kind", NO_STATE_DICT)
def test_odd_programs_are_damage(tmp_path, old, kind):
  content = torch_files.content({"a": ARRAY, "odd": Raw(NO_STATE_DICT[kind])}, old)
  refused(tmp_path / "a.pth", content, "copy or download it again")


@both
@pytest.mark.parametrize(
  "tensor",
  [
    Strided(ARRAY, 0, (7,), (1,)),
    Strided(ARRAY, 6, (), ()),
    Strided(ARRAY, 1, (2, 3), (3, 1)),
    Strided(ARRAY, 2**62, (1,), (1,)),
    Strided(ARRAY, 0, (2**40,), (1,)),
    Strided(ARRAY, 0, (2**40,), (0,)),
    Strided(ARRAY, 0, (2**40, 2**40), (0, 0)),
    Strided(ARRAY, 0, (2, 2**31), (2**62, 2**62)),
    Strided(ARRAY, 0, (2,), (2**63,)),
    Strided(ARRAY, 5, (2,), (-1,)),
    Strided(ARRAY, -1, (2,), (1,)),
    Strided(ARRAY, 0, (-2,), (1,)),
    Strided(ARRAY, 0, (-2, -3), (3, 1)),
    Strided(ARRAY, 0, (2, 3), (1,)),
    Strided(ARRAY, 0, (1,) * 99, (1,) * 99),
    Strided(ARRAY, 0, (2**70, 0), (1, 1)),
    Strided(ARRAY, 0, (6,), (1,), claim=7),
    Strided(ARRAY, 0, (6,), (1,), claim=2**62),
    Strided(ARRAY, 0, (6,), (1,), claim=2**80),
  ],
  ids=lambda t: f"{t.offset} {t.shape[:3]} {t.strides[:3]} {t.claim}",
)
def test_tensors_beyond_their_values(tmp_path, old, tensor):
  refused(tmp_path / "a.pth", torch_files.content({"a": tensor}, old), "copy or download it again")


def test_sizes_are_compared_with_the_file_before_anything_is_read(tmp_path):
  claim = {"a": Strided(ARRAY, 0, (6,), (1,), claim=2**30)}
  refused(
    tmp_path / "a.pth", torch_files.content(claim, old=True), "expected 4,294,9.* bytes, found"
  )
  whole = torch_files.content({"a": ARRAY}, old=True)
  other = whole.replace(
    struct.pack("<q", 6) + ARRAY.tobytes(), struct.pack("<q", 5) + ARRAY.tobytes()
  )
  assert other != whole
  refused(tmp_path / "a.pth", other, "storage '0' of another size than said")


@both
def test_a_file_cut_anywhere(tmp_path, old):
  whole = torch_files.content({"a": np.arange(99, dtype=np.float32), "b": ARRAY}, old)
  rng = np.random.default_rng(0)
  for cut in (1, 2, 3, 4, len(whole) - 1, *rng.integers(5, len(whole) - 1, 30)):
    refused(tmp_path / "a.pth", whole[:cut], "copy or download it again")


@both
def test_any_changed_byte_is_an_error_or_other_numbers(tmp_path, old):
  """Nothing else: no other exception, no wrong shape."""
  whole = torch_files.content({"a": ARRAY, "b": ARRAY[:2].astype(np.int64)}, old)
  rng, path, read = np.random.default_rng(1), tmp_path / "a.pth", 0
  for place in range(len(whole)):
    changed = bytearray(whole)
    changed[place] ^= int(rng.integers(1, 256))
    path.write_bytes(changed)
    try:
      found = files.read(path)
    except ConvertError as error:
      assert "\n" not in str(error)
    else:
      read += 1
      assert sum(array.nbytes for array in found.values()) < 100 * len(whole)
  assert read > 9


def test_an_archive_that_unpacks_to_far_more(tmp_path):
  zeros = {"a": np.zeros(2**20, np.float32)}
  content = torch_files.content(zeros, compression=zipfile.ZIP_DEFLATED)
  refused(tmp_path / "a.pth", content, "members of 4,194,[0-9]* bytes in a file of")


def test_other_programs_and_other_machines(tmp_path):
  path = tmp_path / "a.pt"
  refused(path, torch_files.content({"a": ARRAY}, **{"constants.pkl": b"."}), "in TorchScript")
  refused(path, torch_files.content({"a": ARRAY}, byteorder=b"big"), "big-endian")
  path.write_bytes(torch_files.content({"a": ARRAY}, byteorder=b"little"))
  np.testing.assert_array_equal(files.read(path)["a"], ARRAY)
  old = torch_files.content({"a": ARRAY}, old=True).replace(b"\x88s.", b"\x89s.")
  refused(path, old, "big-endian")
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("photo.jpg", b"x")
  refused(path, path.read_bytes(), "copy or download it again")
  for protocol in (2, 4):
    refused(path, pickle.dumps({"a": 1.0}, protocol), "that PyTorch did not write.*refused")
    refused(path, pickle.dumps(Evil(tmp_path / "x"), protocol), "did not write.*refused")
  assert not (tmp_path / "x").exists()


def test_a_dict_within_itself_ends(tmp_path):
  loop = Raw(b"}q\x01" + text("model") + b"h\x01s")
  refused(tmp_path / "a.pth", torch_files.content(loop), r"found keys \['model'\]")
