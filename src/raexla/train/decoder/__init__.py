"""Decoder training: a ViT decoder against a frozen encoder, with a critic. Two optimisers in one Task.

Total loss of the decoder (000, section 2; 001, section 3): w_l1 L1 + w_perceptual perceptual + w_gram Gram +
w_adv lambda adversarial, where lambda balances the gradients of L1 + perceptual and of the adversarial loss at the
decoder's last layer. The decoder's update comes first; the critic then sees fresh reconstructions of the same batch.

`recipe.py` says what can be set, `similarity.py` compares two pictures, `adversary.py` is the critic's side, `task.py`
puts them together into a step, `sources.py` tells the losses of several sources apart, `collapse.py` watches the
critic, `work.py` counts. B: rows, N: latent tokens, C: latent channels.
"""

from raexla.train.decoder.recipe import DecoderTrainingRecipe
from raexla.train.decoder.task import DecoderTask

__all__ = ["DecoderTask", "DecoderTrainingRecipe"]
