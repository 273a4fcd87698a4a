"""Which class answers for which kind; imported when a fixture of the kind turns up (transformers takes its time)."""

from importlib import import_module

from parity_kinds.base import Runner

KINDS: dict[str, tuple[str, str]] = {
    "dinov2_features": ("encoders", "Dinov2"),
    "gaussian_fourier_W": ("flow", "FourierFrequencies"),
    "mae_features": ("encoders", "MAE"),
    "rae_adaptive_weight": ("critic", "AdaptiveWeight"),
    "rae_decoder_patch16": ("decoder", "Decoder"),
    "rae_diffaug": ("critic", "DiffAug"),
    "rae_dinodisc": ("critic", "DinoDisc"),
    "rae_ditdh": ("dit", "RAEDiT"),
    "rae_latent_norm": ("decoder", "LatentNorm"),
    "rae_lightningdit": ("dit", "RAELightningDiT"),
    "rae_transport": ("flow", "RAETransport"),
    "rae_upsample_latent": ("decoder", "Decoder"),
    "rae_upsample_patch32": ("decoder", "Decoder"),
    "scale_rae_ddt_classic": ("dit", "ScaleRAEDiT"),
    "scale_rae_ddt_wide": ("dit", "ScaleRAEDiT"),
    "scale_rae_dit": ("dit", "ScaleRAEDiT"),
    "scale_rae_flow_train": ("flow", "ScaleRAETraining"),
    "scale_rae_sampler_grid": ("flow", "ScaleRAESampler"),
    "siglip_features": ("encoders", "Siglip"),
    "webssl_features": ("encoders", "WebSSL"),
}
"""Kind -> module of this package and class in it."""


def runner_of(kind: str) -> type[Runner]:
    """The class that answers for a kind."""
    module, name = KINDS[kind]
    found: type[Runner] = getattr(import_module(f"parity_kinds.{module}"), name)
    return found
