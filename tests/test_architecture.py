"""Imports point inwards, the mathematics imports nothing heavy, and faces show what they say."""

import ast
import importlib
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import jaxdml
from tests import architecture_map as house

# Of a part of the package each, and slow to import or large.
OF_A_PART = ("matplotlib", "bokeh", "pyarrow", "sklearn", "tensorboardX")
HEAVY = (
  *("tensorflow", "tensorflow_datasets", "array_record", "orbax", "grain", "flax", "optax", "chex"),
  *("ml_collections", "cv2", "PIL", "scipy", "tqdm", *OF_A_PART),
)


def test_every_room_is_on_the_map():
  assert sorted(set(house.rooms()) - set(house.ORDER)) == []


def test_imports_point_inwards():
  """Lazy imports are counted, and there is no table of exceptions."""
  wrong = []
  for (room, other), path in house.edges().items():
    outwards = house.ORDER.index(other) > house.ORDER.index(room)
    stranger = (
      room in house.PARTS
      and other in house.PARTS
      and other not in house.PARTS_KNOW.get(room, set())
    )
    if outwards or stranger:
      wrong.append(f"{path} imports {other}")
  assert wrong == []


def test_the_page_draws_the_map_as_it_is():
  text = house.PAGE.read_text()
  assert text == house.written(text), "python -m tests.architecture_map --write"


def imported_by(statements):
  """The first names of all modules that are there after these imports, in a process of its own."""
  code = f"import sys; {statements}; print(*{{m.partition('.')[0] for m in sys.modules}})"
  return set(
    subprocess.run(
      [sys.executable, "-c", code], cwd=house.ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
  )


@pytest.mark.parametrize("rooms", ["losses, mining", "distances, refs, hdml", "__version__, types"])
def test_importing_the_mathematics_imports_nothing_heavy(rooms):
  assert imported_by(f"from jaxdml import {rooms}") & set(HEAVY) == set()


def test_what_one_part_needs_waits_for_that_part():
  training = imported_by("from jaxdml.training import train_and_evaluate")
  assert {"flax", "orbax"} <= training and training & set(OF_A_PART) == set()
  search = imported_by("from jaxdml.search import Index; from jaxdml import evaluation")
  assert "scipy" in search and search & {"flax", "cv2", "tensorflow_datasets", *OF_A_PART} == set()


def test_mathematics_needs_jax_and_numpy_alone():
  ours = {"jaxdml", "jax", "numpy", "__future__", *sys.stdlib_module_names}
  foreign = {
    f"{path.relative_to(house.ROOT)}: {name}"
    for room, paths in house.rooms().items()
    if room in house.MATHEMATICS
    for path in paths
    for name in house.names_imported(path)
    if name.partition(".")[0] not in ours
  }
  assert foreign == set()


def public_packages():
  yield "jaxdml"
  for module in pkgutil.iter_modules(jaxdml.__path__, "jaxdml."):
    if module.ispkg and not module.name.rpartition(".")[2].startswith("_"):
      yield module.name


@pytest.mark.parametrize("name", [*public_packages(), "jaxdml.distances"])
def test_dir_shows_what_is_public(name):
  package = importlib.import_module(name)
  assert sorted(dir(package)) == sorted(package.__all__)
  for public in package.__all__:
    assert getattr(package, public) is not None


def test_only_what_a_face_shows_is_taken_from_it():
  """`data.decode` works where someone imported it before, and fails in a fresh process."""
  faces = {
    name.removeprefix("jaxdml."): importlib.import_module(name) for name in public_packages()
  }
  wrong = []
  for path in sorted((house.ROOT / "jaxdml").rglob("*.py")):
    tree = ast.parse(path.read_text())
    local = {
      alias.asname or alias.name: faces[alias.name]
      for node in ast.walk(tree)
      if isinstance(node, ast.ImportFrom) and node.module == "jaxdml"
      for alias in node.names
      if alias.name in faces
    }
    for node in ast.walk(tree):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        face = local.get(node.value.id)
        if face is not None and node.attr not in face.__all__:
          wrong.append(f"{path.relative_to(house.ROOT)}:{node.lineno}: {ast.unparse(node)}")
  assert wrong == []


def test_no_docstring_is_a_riddle():
  """They begin with a noun or a verb, not with What, How, Which, Where or Whether."""
  riddles = []
  for path in sorted((house.ROOT / "jaxdml").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        words = (ast.get_docstring(node) or "x").split()
        if words and words[0].strip(",:") in ("What", "How", "Which", "Where", "Whether", "Who"):
          riddles.append(f"{pathlib.Path(path).relative_to(house.ROOT)}: {' '.join(words[:6])}")
  assert riddles == []
