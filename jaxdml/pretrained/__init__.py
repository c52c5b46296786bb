"""Published weights for the encoders: converted once, checked, kept with their preprocessing."""

from jaxdml.pretrained.mapping import logits as logits
