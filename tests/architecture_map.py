"""The rooms of the package, their rings, and the map that docs/architecture.md draws of them.

python -m tests.architecture_map [--write] prints the drawing, or writes it into the page.
"""

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"

# Each room may import those before it, and itself.
MATHEMATICS = (
  "_version", "_lazy", "types", "errors", "_files", "_text", "_machine", "_labels", "_arguments",
  "_sharding", "distances", "mining", "losses", "refs", "hdml",
)  # fmt: skip
PARTS = ("models", "pretrained", "data", "prepare", "evaluation")
APPLICATIONS = (
  "training", "planning", "drawing", "inference", "search", "report", "commands", "main",
)  # fmt: skip
ORDER = (*MATHEMATICS, *PARTS, *APPLICATIONS, "__main__")
# Parts know the mathematics, and of each other no more than this.
PARTS_KNOW = {"pretrained": {"models"}, "prepare": {"data"}}


def names_imported(path):
  """Full names of all that a file imports, wherever in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms():
  """Room -> its files."""
  found = {}
  for path in sorted((ROOT / "jaxdml").rglob("*.py")):
    room = path.relative_to(ROOT / "jaxdml").parts[0].removesuffix(".py")
    if room != "__init__":  # the face, which knows all rooms by name
      found.setdefault(room, []).append(path)
  return found


def edges():
  """{(room, other): file} for every import of one room by another."""
  known, result = rooms(), {}
  for room, paths in known.items():
    for path in paths:
      for name in names_imported(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "jaxdml" and other in known and other != room:
          result.setdefault((room, other), path.relative_to(ROOT).as_posix())
  return result


def drawing():
  """The map as a Mermaid graph: rooms by ring, an arrow for each import between rooms that show."""
  hidden = {room for room in rooms() if room.startswith("_")} | {"types", "errors", "main"}
  lines = ["```mermaid", "flowchart BT"]
  for ring, members in (
    ("mathematics: jax and numpy", MATHEMATICS), ("parts", PARTS), ("applications", APPLICATIONS),
  ):  # fmt: skip
    lines.append(f'  subgraph "{ring}"')
    lines += [f"    {room}" for room in members if room in rooms() and room not in hidden]
    lines.append("  end")
  shown = sorted(e for e in edges() if not hidden & set(e))
  lines += [f"  {room} --> {other}" for room, other in shown]
  return "\n".join([*lines, "```"])


def written(text):
  """The page with the drawing as it is now."""
  place = re.compile(r"(<!-- map -->\n).*?(<!-- end -->)", re.DOTALL)
  drawn, count = place.subn(lambda m: f"{m[1]}{drawing()}\n{m[2]}", text)
  assert count == 1, f"{PAGE} has no one place for the map"
  return drawn


if __name__ == "__main__":
  if "--write" in sys.argv[1:]:
    PAGE.write_text(written(PAGE.read_text()))
  else:
    print(drawing())
