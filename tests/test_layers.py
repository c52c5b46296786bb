"""Layers point one way, and the losses import nothing heavy."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What each part of the package may import besides itself.
ENGINE = {"types", "products", "distances", "mining", "losses", "refs"}
ALLOWED = {
  "types": set(),
  "arguments": {"types"},
  "products": {"types"},
  "distances": {"types", "products"},
  "mining": {"types", "distances"},
  "refs": {"types", "arguments", "distances"},
  "losses": {"types", "arguments", "products", "distances", "mining"},
  "hdml": ENGINE,
  "models": {"types"},
  "command": set(),
  "pretrained": {"types", "models", "command", "_version"},
  "data": {"types"},
  "evaluation": {"types"},
  "training": ENGINE | {"hdml", "models", "pretrained", "data", "evaluation", "_version"},
  "search": {"types", "data", "evaluation", "_version"},
  "report": {"training", "data", "evaluation", "experiments", "types", "command"},
  "experiments": ENGINE | {"training", "evaluation", "data", "hdml", "command"},
  "main": {"training", "data"},
  "evaluate": {"training", "data", "evaluation", "command"},
  "embed": {"training", "data", "search"},
  "export": {"training", "data", "command"},
  "retrieve": {"training", "data", "evaluation", "search", "command"},
  "_version": set(),
}
# A command that reads a config as main does, to draw what training gets; nothing imports it. And
# the end of training, which imports the report when it is time for it.
EXEMPT = {"data/show.py": {"main", "training"}, "training/loop.py": {"report"}}


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_layers_point_one_way():
  package = ROOT / "jaxdml"
  wrong = []
  for path in package.rglob("*.py"):
    part = path.relative_to(package).parts[0].removesuffix(".py")
    if part == "__init__":
      continue
    allowed = ALLOWED[part] | EXEMPT.get(path.relative_to(package).as_posix(), set())
    for name in _imports(path):
      package_name, _, rest = name.partition(".")
      other = rest.split(".")[0]
      if package_name == "jaxdml" and other in ALLOWED.keys() - allowed - {part}:
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert wrong == []


def test_losses_import_nothing_heavy():
  code = (
    "import sys; from jaxdml import losses, mining, distances, refs, hdml; "
    "print(sorted({m.split('.')[0] for m in sys.modules}))"
  )
  modules = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout
  for heavy in ("tensorflow", "tensorflow_datasets", "orbax", "grain", "matplotlib", "cv2", "flax"):
    assert f"'{heavy}'" not in modules
