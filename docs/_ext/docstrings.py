"""Docstrings as Sphinx reads them: what stands in them as plain text becomes reStructuredText.

They have paragraphs, lists, code in `backticks`, indented blocks, doctests, and sections such as
"Args:"; nothing in a formula, `[x]_+` or `**shared`, is markup.
"""

import ast
import importlib
import inspect
import re
import textwrap

from reference import documentation, kind
from sphinx.domains.python._object import PyObject

SECTIONS = {"Args": "param", "Attributes": "ivar", "Raises": "raises"}
ITEM = re.compile(r"  (\*{0,2}[\w., ]+?): (.*)")


def inline(text):
  """A run of text: code in backticks, the names of pages as links, all else as it stands."""
  parts = re.split(r"`([^`]+)`|docs/(\w+)\.md", text)
  made = ""
  for plain, code, page in zip(parts[::3], [*parts[1::3], None], [*parts[2::3], None], strict=True):
    made += re.sub(r"([\\*_`|<>\[\]])", r"\\\1", plain)
    if code:
      made += f"``{code}``" if not made or made[-1] in " (\n\"'[/-" else f"\\ ``{code}``"
    if page:
      made += f":doc:`docs/{page}.md </docs/{page}>`"
    if code or page:
      made += "\\ "
  return made


def _section(name, body):
  """The items of a section as a field list; text that names no item stays a paragraph."""
  role, items = SECTIONS[name], []
  for line in body:
    found = ITEM.fullmatch(line)
    if found and not line.startswith("   "):
      items.append([found[1], found[2]])
    elif items:
      items[-1][1] += " " + line.strip()
    else:
      items.append(["", line.strip()])
  for names, text in items:
    if not names:
      yield from (inline(text), "")
    for one in names.split(", ") if names and role != "raises" else [names] if names else []:
      yield f":{role} {one.replace('*', chr(92) + '*')}: {inline(text)}"
  yield ""


def _paragraph(lines):
  """A paragraph, list or block as reStructuredText."""
  if lines[0].startswith(">>>"):
    return [*lines, ""]
  if lines[0].startswith("    "):
    return ["::", "", *lines, ""]
  if not lines[0].startswith("- "):  # a second line of a formula may be indented, or begin so
    return [inline(" ".join(line.strip() for line in lines)), ""]
  return [("" if line.startswith("- ") else "  ") + inline(line.strip()) for line in lines] + [""]


def converted(text):
  """The lines of a docstring as reStructuredText."""
  blocks, made = re.split(r"\n[ ]*\n", text.rstrip()), []
  for block in blocks:
    lines = block.split("\n")
    if re.match(r"(Args|Attributes|Raises|Returns|Yields)\b[^.]*:$", lines[0]) and len(lines) > 1:
      name = re.match(r"\w+", lines[0])[0]
      if name in SECTIONS:
        if lines[0] != f"{name}:":  # "Attributes (`axis_name`: as an encoder's):"
          made += [inline(lines[0].removesuffix(":")) + ".", ""]
        made += _section(name, lines[1:])
      else:
        made += [f":returns: {inline(' '.join(line.strip() for line in lines[1:]))}", ""]
    else:
      made += _paragraph(lines)
  return made


def fields(cls):
  """The fields of a class with the comments beside or above them, as a section."""
  try:
    source = textwrap.dedent(inspect.getsource(cls))
  except (OSError, TypeError):
    return []
  lines, made = source.splitlines(), []
  for node in ast.parse(source).body[0].body:
    if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
      above = node.lineno - 1  # the first line of the comment over the field, if there is one
      while lines[above - 1].strip().startswith("#"):
        above -= 1
      said = [line.strip("# ") for line in lines[above : node.lineno - 1]]
      said.append(lines[node.end_lineno - 1].partition("  # ")[2])
      made.append((node.target.id, ast.unparse(node.annotation), " ".join(said).strip()))
  return made


def convert(app, what, name, obj, options, lines):
  """Sphinx's hook: replaces the lines of a docstring."""
  if what == "module":
    lines[:] = converted(inspect.cleandoc(obj.__doc__))
    return
  parent, _, own = name.rpartition(".")
  text = "\n".join(lines)
  if what in ("class", "function", "data", "exception") and own:
    module = importlib.import_module(parent)
    text = documentation(module, own, obj)
  if name.startswith("jaxdml.losses."):
    text = text.replace("**shared: and errors: docs/conventions.md", "**shared: see below")
  lines[:] = converted(text)
  if getattr(obj, "_is_protocol", False) and "__call__" in vars(obj):
    called = re.sub(r"self, |jax\.", "", str(inspect.signature(obj.__call__)))
    lines += [f"Called as ``{called}``: {inline(inspect.cleandoc(obj.__call__.__doc__))}", ""]
  if what == "class" and kind(obj) == "class" and "Attributes" not in text:
    for field, annotation, comment in fields(obj):
      lines += [f":ivar {field}: {inline(comment)}", f":vartype {field}: {annotation}"]


def skip(app, what, name, obj, skipped, options):
  """Sphinx's hook: fields are listed by their class, not each on its own."""
  code = getattr(obj, "fget", None) or getattr(obj, "__func__", obj)
  ours = inspect.isroutine(code) and (code.__module__ or "").startswith("jaxdml.")
  return True if what == "class" and not ours else None


def signature(app, what, name, obj, options, arguments, returned):
  """Sphinx's hook: without Flax's own fields, and without addresses of objects."""
  if getattr(obj, "_is_protocol", False):
    return "", None
  arguments = re.sub(r",\s*parent: .*?, name: str \| None = None", "", arguments or "")
  short = re.sub(r"<(?:class|function) '?(?:[\w.]+\.)?(\w+)[^<>]*>", r"\1", arguments)
  return short or None, returned


def setup(app):
  """Connects to Sphinx."""
  app.connect("autodoc-process-docstring", convert)
  app.connect("autodoc-skip-member", skip)
  app.connect("autodoc-process-signature", signature)
  for field in PyObject.doc_field_types:
    if field.name == "variable":
      field.label = "Attributes"
  return {"parallel_read_safe": True}
