"""Formulas as MathML, which browsers draw by themselves: no script, no fonts."""

import re
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml import converter
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
MATHML = "{http://www.w3.org/1998/Math/MathML}"
FUNCTIONS = {"cos", "exp", "log", "sin", "tan"}
ElementTree.register_namespace("", MATHML.strip("{}"))


def mathml(formula, display="inline"):
  """A LaTeX formula as MathML, its spaces mended."""
  tree = ElementTree.fromstring(converter.convert(formula, display=display))
  for bar in tree.iter(f"{MATHML}mo"):
    if bar.text == "\u2016":  # of a norm: as high as a letter, and as near on both sides
      bar.attrib |= {"stretchy": "false", "lspace": "0", "rspace": "0"}
  for row in tree.iter(f"{MATHML}mrow"):
    for i in range(len(row) - 1, 0, -1):
      before, after = row[i - 1], row[i]
      # A function's name keeps away from what it multiplies, and from an argument without (.
      if f"{MATHML}mo" not in (before.tag, after.tag) and FUNCTIONS & {before.text, after.text}:
        row.insert(i, ElementTree.Element(f"{MATHML}mspace", width="0.17em"))
  return ElementTree.tostring(tree, encoding="unicode")


def _visit(display):
  def visit(self, node):
    made = mathml(node.astext(), display)
    if "\\" in made:
      LOGGER.warning("no MathML for the formula %r", node.astext(), location=node, type="formula")
    self.body.append(f'<div class="math">{made}</div>' if display == "block" else made)
    raise nodes.SkipNode

  return visit


def check(app, tree):
  """Sphinx's hook: finds what was meant as a formula and read as text."""
  for text in tree.findall(nodes.Text):
    code = isinstance(
      text.parent, nodes.literal | nodes.literal_block | nodes.math | nodes.math_block
    )
    if not code and re.search(r"\$(?![A-Z]{2})", text):  # $HOME is none
      LOGGER.warning("a $ that is no formula: %s", text[:60], location=text.parent, type="formula")


def setup(app):
  """Connects to Sphinx."""
  app.connect("doctree-read", check)
  app.add_html_math_renderer("mathml", (_visit("inline"), None), (_visit("block"), None))
  return {"parallel_read_safe": True}
