"""TFDS builders of the two data sets that need no download: `glyphs` and `digits`.

They are written as array_record from encoded PNG bytes, so neither building nor reading them needs
TensorFlow. `jaxdml.commands.prepare.build` builds one; `jaxdml.data.load` does so on first use.
"""
