"""Vision transformers from timm, DeiT, DINO and DINOv2: one and the same names up to the head."""

from __future__ import annotations

import re

from jaxdml.models import registry
from jaxdml.models.vit import ViT
from jaxdml.pretrained import mapping

_PARTS = {
  "patch_embed": "patch_embed.proj",
  "qkv": "attn.qkv",
  "proj": "attn.proj",
  "fc1": "mlp.fc1",
  "fc2": "mlp.fc2",
}
_LEAVES = {
  "class_token": "cls_token",
  "position_embedding": "pos_embed",
  "register_tokens": "register_tokens",
  "ls1": "ls1.gamma",
  "ls2": "ls2.gamma",
}


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "block3", "fc1", "kernel") -> "blocks.3.mlp.fc1.weight"."""
  modules = [re.sub(r"^block(\d+)$", r"blocks.\1", _PARTS.get(m, m)) for m in path[1:-1]]
  return ".".join((*modules, _LEAVES.get(path[-1]) or mapping.leaf_name(path[-1])))


def rename(arch: str, state: mapping.State) -> mapping.Weights:
  """The weights of vit_s16, vit_b16 or dinov2_s14 from a state dict of timm or of its authors.

  Raises:
    ConvertError: the state dict is of something else.
  """
  return rename_for(registry.create(arch), state)


def rename_for(encoder: ViT, state: mapping.State) -> mapping.Weights:
  """As `rename`, for a ViT of any size, and with DINOv2's names of registers.

  What only training needs (DINOv2's mask token) is left out.
  """
  classifier = ("head.weight", "head.bias")
  side = encoder.patch * encoder.grid
  return mapping.rename(
    encoder, state, _name_of, classifier=classifier, ignore="mask_token", image_size=side
  )
