"""Formulas as MathML, which browsers draw by themselves: no script, no fonts."""

from docutils import nodes
from latex2mathml import converter
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def _visit(display):
  def visit(self, node):
    made = converter.convert(node.astext(), display=display)
    if "\\" in made:
      LOGGER.warning("no MathML for the formula %r", node.astext(), location=node, type="formula")
    self.body.append(f'<div class="math">{made}</div>' if display == "block" else made)
    raise nodes.SkipNode

  return visit


def setup(app):
  """Connects to Sphinx."""
  app.add_html_math_renderer("mathml", (_visit("inline"), None), (_visit("block"), None))
  return {"parallel_read_safe": True}
