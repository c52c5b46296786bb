"""--config and its overrides: what they take, and one line for what they do not."""

import importlib
import pathlib
import shutil
import sys

import pytest

from jaxdml.commands import _config
from jaxdml.commands._cli import UsageError, split_overrides

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = f"{ROOT / 'configs' / 'grid.py'}:glyphs"


def read(*arguments, file=FILE):
  rest, overrides = split_overrides(arguments)
  assert rest == []
  return _config.read(file, overrides)


def test_values_take_the_types_of_their_keys():
  config = read(
    "--config.optimizer.learning_rate=5e-4", "--config.seed", "3", "-config.data.batch_size=64",
    "--config.data.dataset=a=b", "--config.eval.ks=(1, 10)", "--config.hdml.enabled",
    "--noconfig.eval.test", "--config.train.report=False", "--config.optimizer.clip_norm=2",
    "--config.hdml.window=7 steps", "--config.hdml.weighted_average=true",
    "--config.optimizer.generator_learning_rate", "-1e-4",
  )  # fmt: skip
  assert config.optimizer.learning_rate == 5e-4 and config.seed == 3
  assert config.data.batch_size == 64 and config.data.dataset == "a=b"
  assert config.eval.ks == (1, 10) and config.hdml.enabled is True
  assert config.eval.test is False and config.train.report is False
  assert isinstance(config.optimizer.clip_norm, float) and config.hdml.window == "7 steps"
  assert config.hdml.weighted_average is True
  assert config.optimizer.generator_learning_rate == -1e-4
  assert config.is_locked


def test_dials_are_numbers_or_words():
  for text, value in (("auto", "auto"), ("90", 90), ("0.5", 0.5)):
    assert read(f"--config.hdml.alpha={text}").hdml.alpha == value


@pytest.mark.parametrize(
  ("arguments", "value"),
  [
    (["--config.eval.ks=1", "--config.eval.ks=10"], (1, 10)),
    (["--config.eval.ks=4"], (4,)),
    (["--config.eval.ks=[2, 3]"], (2, 3)),
    (["--config.eval.ks=()"], ()),
  ],
)
def test_tuples_at_once_or_one_by_one(arguments, value):
  assert read(*arguments).eval.ks == value
  texts = read("--config.optimizer.milestones=5 steps", "--config.optimizer.milestones=9 steps")
  assert texts.optimizer.milestones == ("5 steps", "9 steps")


def test_options_take_keys_that_the_file_does_not_have():
  config = read(
    "--config.loss.options.names=[1, 'a']", "--config.mining.options.k", "2",
    "--config.encoder.options.pooling=gem", "--config.encoder.options.cap=true",
    "--config.loss.init_options.centers=3", "--config.loss.distance_options.curvature=0.5",
  )  # fmt: skip
  assert config.loss.options.names == [1, "a"] and config.mining.options.k == 2
  assert config.encoder.options.to_dict() == {"pooling": "gem", "cap": True}
  assert config.loss.init_options.centers == 3 and config.loss.distance_options.curvature == 0.5
  config = read("--config.loss.options={'l2_reg': 0.1}", "--config.loss.options.margin=2")
  assert config.loss.options.to_dict() == {"l2_reg": 0.1, "margin": 2}


def test_the_last_value_counts():
  assert read("--config.seed=3", "--config.seed=5").seed == 5


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    (
      "--config.optimizer.learnin_rate=1e-4",
      "--config.optimizer.learnin_rate=1e-4: config.optimizer has no key 'learnin_rate'; did you "
      "mean 'learning_rate'? It takes: ",
    ),
    ("--config.optimiser.x=1", "config has no key 'optimiser'; did you mean 'optimizer'?"),
    ("--config.seed.x=1", "config.seed has no key 'x'. It takes: none"),
    ("--config.loss.options.a.b=1", "config.loss.options has no key 'a'"),
    ("--config.seed=abc", "--config.seed=abc: expected a whole number"),
    ("--config.seed=1.5", "--config.seed=1.5: expected a whole number"),
    ("--config.optimizer.learning_rate=high", "=high: expected a float"),
    ("--config.eval.test=perhaps", "--config.eval.test=perhaps: expected True or False"),
    ("--config.eval.ks=(1, 2", "--config.eval.ks=(1, 2: expected a tuple"),
    ("--config.loss.options=3", "--config.loss.options=3: expected a"),
    ("--config.hdml.weighted_average=3", "expected True or False"),
  ],
)
def test_what_a_key_does_not_take(argument, message):
  with pytest.raises(UsageError) as raised:
    read(argument)
  assert message in str(raised.value) and "\n" not in str(raised.value)


def write(tmp_path, text):
  folder = tmp_path / "own"
  folder.mkdir()
  (folder / "shared.py").write_text("from ml_collections import ConfigDict\nSEED = 7\n")
  (folder / "mine.py").write_text(f"from own.shared import SEED, ConfigDict\n{text}")
  return str(folder / "mine.py")


def test_a_file_with_an_argument_and_imports_of_its_own_folder(tmp_path):
  file = write(tmp_path, "get_config = lambda arg='': ConfigDict({'seed': SEED, 'arg': arg})\n")
  assert read(file=file).to_dict() == {"seed": 7, "arg": ""}
  assert read("--config.seed=8", file=f"{file}:a,b:c").to_dict() == {"seed": 8, "arg": "a,b:c"}


def test_files_that_do_not_give_a_config(tmp_path):
  with pytest.raises(UsageError, match=r"get_config\(\) takes 0 positional arguments but 1"):
    read(file=f"{ROOT / 'configs' / 'default.py'}:x")
  with pytest.raises(UsageError, match=r"--config: configs/grid\.py takes names joined by commas"):
    read(file=f"{ROOT / 'configs' / 'hdml_cub.py'}:tripplet")
  (tmp_path / "none.txt").write_text("")
  with pytest.raises(UsageError, match="expected a file of Python"):
    read(file=str(tmp_path / "none.txt"))
  (tmp_path / "none.py").write_text("")
  with pytest.raises(UsageError, match="has no get_config"):
    read(file=str(tmp_path / "none.py"))
  (tmp_path / "bug.py").write_text("def get_config():\n  return 1 + 'a'\n")
  with pytest.raises(TypeError):  # A fault in the file keeps its traceback.
    read(file=str(tmp_path / "bug.py"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A folder like that of a user without a clone: Python finds no `configs` of ours by itself."""
  monkeypatch.chdir(tmp_path)
  away = [x for x in sys.path if pathlib.Path(x).resolve() not in (ROOT, tmp_path)]
  monkeypatch.setattr(sys, "path", away)
  for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
    monkeypatch.delitem(sys.modules, name)
  importlib.invalidate_caches()
  yield tmp_path
  for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
    del sys.modules[name]


OTHER_GRID = (
  "from ml_collections import ConfigDict\nget_config = lambda arg: ConfigDict({'got': arg})\n"
)


@pytest.mark.parametrize("name", _config.NAMES)
def test_a_config_by_its_name_is_the_one_in_the_file(name, elsewhere):
  argument = {"grid": ":glyphs,triplet", "vit": ":cub", "photos": ":garden"}.get(name, "")
  ours = read(file=f"{name}{argument}")
  assert ours == read(file=f"{ROOT / 'configs' / name}.py{argument}") and ours.is_locked


def test_ours_by_name_imports_ours(elsewhere, monkeypatch):
  (elsewhere / "configs").mkdir()
  (elsewhere / "configs" / "grid.py").write_text(OTHER_GRID)
  (elsewhere / "hdml_glyphs").mkdir()  # A folder is no config.
  monkeypatch.syspath_prepend(elsewhere)
  config = read("--config.seed=5", file="hdml_glyphs:triplet,eps")
  assert config.loss.name == "triplet" and config.hdml.enabled and config.seed == 5


def test_a_file_wins_over_a_name(elsewhere):
  (elsewhere / "hdml_glyphs").write_text("")
  with pytest.raises(UsageError, match="--config=hdml_glyphs: expected a file of Python"):
    read(file="hdml_glyphs")


def test_a_copied_config_needs_no_other_file_and_takes_the_one_beside_it(elsewhere):
  own = elsewhere / "mine"
  own.mkdir()
  shutil.copy(ROOT / "configs" / "hdml_cars.py", own)
  assert read(file=f"{own / 'hdml_cars.py'}:triplet").loss.name == "triplet"
  (own / "grid.py").write_text(OTHER_GRID)
  for name in ("configs", "configs.grid"):  # As in a process of its own.
    del sys.modules[name]
  assert read(file=f"{own / 'hdml_cars.py'}:triplet").to_dict() == {"got": "cars,hdml,triplet"}


def test_a_folder_configs_of_ones_own_wins(elsewhere):
  """Python finds it, with what its `__init__` says; `configs.vit`, which it lacks, is ours."""
  own = elsewhere / "configs"
  own.mkdir()
  (own / "__init__.py").write_text("SEED = 7\n")
  (own / "seeded.py").write_text(
    "from configs import SEED\nfrom ml_collections import ConfigDict\n"
    "get_config = lambda: ConfigDict({'seed': SEED})\n"
  )
  assert read(file="configs/seeded.py").seed == 7
  shutil.copy(ROOT / "configs" / "vit_cub.py", own)
  shutil.copy(ROOT / "configs" / "hdml_cars.py", own)
  (own / "grid.py").write_text(OTHER_GRID)
  assert read(file="configs/hdml_cars.py:triplet").to_dict() == {"got": "cars,hdml,triplet"}
  assert read(file="configs/vit_cub.py:lora").data.dataset == "cub200_2011"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("hdml_glyph", "no such file, and none of jaxdml's own by name: default, .*vit_sop; did you "
     "mean hdml_glyphs[?]"),
    ("configs/nope.py:x", "--config=configs/nope.py: no such file, and none of jaxdml's own by na"),
    ("configs/hdml_cars.py", "no such file; --config=hdml_cars is jaxdml's own of this name"),
  ],
)  # fmt: skip
def test_neither_a_file_nor_a_name(name, message, elsewhere):
  with pytest.raises(UsageError, match=message) as raised:
    read(file=name)
  assert "\n" not in str(raised.value)
