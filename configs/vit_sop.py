"""A DINOv2 ViT-S/14 (arXiv 2304.07193) on Stanford Online Products, in the form of configs/vit.py.

python -m jaxdml.main --config=configs/vit_sop.py --workdir=runs/vit_sop

Published Recall@1, nearest first: a DINO ViT-S/16 fine-tuned 86.6 (OML's README); Hyp-DINO,
ViT-S/16 85.1, Hyp-ViT, ViT-S/16 from ImageNet-21k 85.9 (arXiv 2203.10833); Recall@k surrogate,
ViT-B/16 88.0 (arXiv 2108.11179); VPTSP-G, ViT-B/16 at 512 pixels 86.8 (arXiv 2402.02340). DINOv2
ViT-S/14 frozen 56.6 (OML's README).
Measured: not run here. Cost: not measured here.
Data: jaxdml prepare stanford_online_products --source=DIR_WITH_Stanford_Online_Products.zip
Weights: from the Hugging Face hub, pip install '.[hub]'; docs/encoders.md.
Other forms: configs/vit_sop.py:dinov2_s14,lora,multisimilarity,eps, or names of configs/vit.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config(arg: str = "") -> ConfigDict:
  """The form of configs/vit.py that `arg` names."""
  return vit.get_config(f"sop,{arg}")
