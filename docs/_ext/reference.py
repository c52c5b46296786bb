"""Writes docs/api/*.md: a page for each public module, and one for each loss.

What is public is what `__all__` says, or, in a module without one, what it defines without an
underscore. A public name without documentation is a warning, with which a strict build fails.
"""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import types

from sphinx.util import logging

from jaxdml import losses
from tests.architecture_map import ORDER

LOGGER = logging.getLogger(__name__)
DOCS = pathlib.Path(__file__).resolve().parent.parent
FOLDER = DOCS / "api"
LEFT_OUT = {"main"}  # `python -m jaxdml.main`: a command, which the guide explains

GUIDE = {  # the pages that explain a module
  "losses": ("losses", "conventions", "loops"), "mining": ("losses", "methods"),
  "distances": ("losses",), "refs": ("conventions",), "hdml": ("methods",),
  "evaluation": ("evaluation",), "models": ("encoders",), "pretrained": ("encoders",),
  "data": ("data",), "prepare": ("data",), "training": ("training",),
  "planning": ("accelerators",), "inference": ("retrieval", "export"), "search": ("retrieval",),
  "report": ("report",),
}  # fmt: skip

CONFIG = """# Config keys

What each says, takes and is by default; [training](../training.md) has the rest.

```{literalinclude} ../../jaxdml/training/defaults.py
:language: python
```
"""


@functools.cache
def modules():
  """Public modules by full name, from the mathematics outwards, each before those inside it."""
  found = {}

  def add(module):
    if module.__name__ not in found:
      found[module.__name__] = module
      for value in public(module).values():
        if inspect.ismodule(value) and value.__name__.startswith(module.__name__ + "."):
          add(value)

  for name in ORDER:
    if not name.startswith("_") and name not in LEFT_OUT:
      add(importlib.import_module(f"jaxdml.{name}"))
  return found


def public(module):
  """Public names of a module and what they are."""
  names = getattr(module, "__all__", None)
  if names is None:
    names = [
      name for name, value in vars(module).items()
      if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]  # fmt: skip
  return {name: getattr(module, name) for name in sorted(names)}


@functools.cache
def _constants(folder):
  """Name -> the string after its assignment, over the files of a package or one module."""
  paths = sorted(folder.rglob("*.py"), reverse=True) if folder.is_dir() else [folder]
  found = {}
  for path in paths:
    body = ast.parse(path.read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
      targets = getattr(node, "targets", [getattr(node, "target", None)])
      if isinstance(after, ast.Expr) and isinstance(getattr(after.value, "value", None), str):
        found |= {t.id: after.value.value for t in targets if isinstance(t, ast.Name)}
  return found


def kind(value):
  """The directive of autodoc that documents a value."""
  if inspect.ismodule(value):
    return "module"
  if inspect.isclass(value) and not isinstance(value, types.GenericAlias):
    return "class"
  return "function" if inspect.isroutine(value) or hasattr(value, "__wrapped__") else "data"


def documentation(module, name, value):
  """The docstring of a public name: its own, not that of its type; "" if it has none."""
  if kind(value) == "class":
    return inspect.cleandoc(vars(value).get("__doc__") or "")
  if kind(value) != "data":
    return inspect.cleandoc(value.__doc__ or "")
  own = getattr(value, "__dict__", {}).get("__doc__") or ""
  file = pathlib.Path(module.__file__)
  folder = file.parent if file.name == "__init__.py" else file
  return inspect.cleandoc(own or _constants(folder).get(name, ""))


def undocumented():
  """Full names of all that is public and says nothing of itself."""
  for full, module in modules().items():
    if not module.__doc__:
      yield full
    for name, value in public(module).items():
      if name.startswith("__") or inspect.ismodule(value):
        continue
      if not documentation(module, name, value):
        yield f"{full}.{name}"
      if kind(value) == "class" and value.__module__.startswith("jaxdml."):
        for member, thing in vars(value).items():
          thing = getattr(thing, "__func__", thing)
          made = inspect.isfunction(thing) and thing.__module__ == value.__module__
          shown = (made or isinstance(thing, property)) and not member.startswith("_")
          if shown and not thing.__doc__:
            yield f"{full}.{name}.{member}"


def home(full, value):
  """The module whose page documents a value that several have: its own, else the first."""
  if kind(value) == "data":
    return full
  having = [name for name, module in modules().items()
            if any(other is value for other in public(module).values())]  # fmt: skip
  return value.__module__ if value.__module__ in having else having[0]


def _entry(full, name, value):
  if (other := home(full, value)) != full:
    return f"`{name}` is [{other.partition('.')[2]}.{name}](#{other}.{name}): {_first(value)}\n"
  options = {"class": "\n   :members:", "data": "\n   :no-value:"}.get(kind(value), "")
  return f"```{{eval-rst}}\n.. auto{kind(value)}:: {full}.{name}{options}\n```\n"


def _rows(page, heading=None):
  """Cells of the rows of a page's tables, by the name in their first cell."""
  text = (DOCS / page).read_text()
  if heading:
    text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
  rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
  return {row[0].strip("`"): row for row in rows}


def _shared(record):
  """The table of the arguments that losses share, as docs/conventions.md has it."""
  rows = _rows("conventions.md", "The shared arguments")
  if record.parameter is not None:
    made = f'of `losses.init("{record.name}", ...)`; its class vectors are the references'
    rows = {"params": ["`params`", "a dict of arrays", made], **rows}
    rows = {name: row for name, row in rows.items() if name not in ("refs", "ids")}
  lines = ["| argument | shape | meaning |", "|---|---|---|"]
  lines += [f"| {' | '.join(row)} |" for row in rows.values()]
  return "\n".join(lines).replace("](#", "](../conventions.md#").replace("see below",
    "see [reducers](../conventions.md#reducers)")  # fmt: skip


def loss_page(record):
  """The page of a loss: its formula from docs/losses.md, its docstring, the shared arguments."""
  _, formula, source, defaults, needs, use = _rows("losses.md")[record.name]
  name = record.fn.__name__
  return f"""# {name}

{{.formula}}
{formula}

- In a config: `loss.name = "{record.name}"`
- Source: {source}
- Defaults: {defaults}
- Needs: {needs}
- When to use it: {use}

Letters mean what they do in [the table of all losses](../losses.md).

{_entry("jaxdml.losses", name, record.fn)}

## Arguments that all losses share

{_shared(record)}

[More about them](../conventions.md), [the reducers](../conventions.md#reducers) and
[the errors](../conventions.md#errors) that all losses raise.
"""


def module_page(full, module, inside):
  """The page of a module: its docstring, its submodules, then each of its names."""
  own = {record.fn.__name__ for record in losses.LOSSES.values()}
  parts = [f"# {full}\n", f"```{{eval-rst}}\n.. automodule:: {full}\n```\n"]
  room = full.partition(".")[2]
  if room in GUIDE:
    pages = ", ".join(f"[](../{name}.md)" for name in GUIDE[room])
    parts.append(f"In the guide, with formulas and examples: {pages}.\n")
  if inside:
    parts.append("\n".join(f"- [{name}]({name}.md)" for name in inside) + "\n")
  things = {n: v for n, v in public(module).items()
            if not inspect.ismodule(v) and not n.startswith("__")}  # fmt: skip
  if full == "jaxdml.losses":
    lines = [f"| [{name}]({full}.{name}.md) | {_first(value)} |"
             for name, value in things.items() if name in own]  # fmt: skip
    parts.append("\n".join(["| loss | |", "|---|---|", *lines]) + "\n")
    things = {name: value for name, value in things.items() if name not in own}
  parts += [_entry(full, name, value) for name, value in things.items()]
  return "\n".join(parts)


def _first(value):
  """The first line of a docstring as Markdown: nothing but code is markup."""
  parts = inspect.cleandoc(value.__doc__).partition("\n")[0].split("`")
  parts[::2] = [re.sub(r"([*_\[\]|$<])", r"\\\1", part) for part in parts[::2]]
  return "`".join(parts)


def write(app):
  """Writes all pages, those that changed, and takes away what is no longer made."""
  for name in undocumented():
    LOGGER.warning("public, but without documentation: %s", name, type="reference")
  found = modules()
  pages = {}
  for full, module in found.items():
    inside = [name for name in found if name.startswith(full + ".")]
    pages[full] = module_page(full, module, inside)
  for record in losses.LOSSES.values():
    pages[f"jaxdml.losses.{record.fn.__name__}"] = loss_page(record)
  rooms = [name for name in pages if name.count(".") == 1]
  lines = [f"| [{name}]({name}.md) | {_first(found[name])} |" for name in rooms]
  lines.append("| [config keys](config.md) | Every key, what it takes and its default. |")
  pages["config"] = CONFIG
  tree = "\n".join([*rooms, "config"])
  index = "\n".join(["# Reference\n", "| module | |", "|---|---|", *lines, ""])
  pages["index"] = f"{index}\n```{{toctree}}\n:hidden:\n{tree}\n```\n"
  for room in rooms:
    inside = sorted(name for name in pages if name.startswith(room + "."))
    if inside:
      pages[room] += "\n```{toctree}\n:hidden:\n" + "\n".join(inside) + "\n```\n"
  FOLDER.mkdir(exist_ok=True)
  for path in FOLDER.glob("*.md"):
    if path.stem not in pages:
      path.unlink()
  for name, text in pages.items():
    path = FOLDER / f"{name}.md"
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def setup(app):
  """Connects to Sphinx."""
  app.connect("builder-inited", write)
  return {"parallel_read_safe": True}
