"""The straight path between data and noise. This file states the convention; the rest of the project follows it.

t = 0 is data, t = 1 is noise; x_t = (1 - t) x + t eps; the velocity is dx_t / dt = eps - x (paper 000, sec. 3.2).
"""

from torch import Tensor


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """View t [B] as [B, 1, ..., 1] with as many dims as `like`."""
    return t.reshape(-1, *[1] * (like.dim() - 1))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x + t eps for x, noise [B, ...] and t [B]."""
    t = per_sample(t, x)
    return (1 - t) * x + t * noise


def velocity_target(x: Tensor, noise: Tensor) -> Tensor:
    """v = eps - x, what the network is trained to predict."""
    return noise - x


def data_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The data that a velocity points to: x = x_t - t v."""
    return x_t - per_sample(t, x_t) * velocity


def noise_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The noise that a velocity comes from: eps = x_t + (1 - t) v."""
    return x_t + (1 - per_sample(t, x_t)) * velocity


def flow_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Squared error per sample, the mean over everything but the batch, unweighted in time: [B, ...] -> [B]."""
    return (velocity.float() - target.float()).square().flatten(1).mean(dim=1)
