"""Which class answers for which kind."""

from parity_kinds.base import Runner
from parity_kinds.critic import AdaptiveWeight, DiffAug, DinoDisc
from parity_kinds.decoder import Decoder, LatentNorm
from parity_kinds.dit import RAEDiT, RAELightningDiT, ScaleRAEDiT
from parity_kinds.encoders import MAE, Dinov2, Siglip, WebSSL
from parity_kinds.flow import FourierFrequencies, RAETransport, ScaleRAESampler, ScaleRAETraining

KINDS: dict[str, type[Runner]] = {
    "dinov2_features": Dinov2,
    "gaussian_fourier_W": FourierFrequencies,
    "mae_features": MAE,
    "rae_adaptive_weight": AdaptiveWeight,
    "rae_decoder_patch16": Decoder,
    "rae_diffaug": DiffAug,
    "rae_dinodisc": DinoDisc,
    "rae_ditdh": RAEDiT,
    "rae_latent_norm": LatentNorm,
    "rae_lightningdit": RAELightningDiT,
    "rae_transport": RAETransport,
    "rae_upsample_latent": Decoder,
    "rae_upsample_patch32": Decoder,
    "scale_rae_ddt_classic": ScaleRAEDiT,
    "scale_rae_ddt_wide": ScaleRAEDiT,
    "scale_rae_dit": ScaleRAEDiT,
    "scale_rae_flow_train": ScaleRAETraining,
    "scale_rae_sampler_grid": ScaleRAESampler,
    "siglip_features": Siglip,
    "webssl_features": WebSSL,
}
