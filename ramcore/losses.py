"""The asymmetric loss for multi-label tagging."""

import torch
from torch import Tensor


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 7.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    eps: float = 1e-8,
) -> Tensor:
    """The asymmetric loss (Ridnik et al., arXiv:2009.14119, eq. 4–7), summed over batch and tags.

    logits: float [B, N]; targets: [B, N], 0 or 1. Returns a float32 scalar. With p = sigmoid(logit) and the
    shifted p_m = max(p − clip, 0):

        L = − Σ  y · (1 − p)^gamma_pos · ln p  +  (1 − y) · p_m^gamma_neg · ln(1 − p_m)

    The focusing factors (1 − p)^gamma_pos and p_m^gamma_neg carry no gradient, and logarithms have a floor of
    ln eps, both as in the recognize-anything reference, whose defaults for tagging these are. gamma 0 and
    clip 0 give the binary cross-entropy. The global grad mode is left as it is.
    """
    targets = targets.to(torch.float32)
    positive = torch.sigmoid(logits.to(torch.float32))
    # 1 − p_m written as the reference has it: (1 − p + clip), at most 1.
    negative = 1 - positive
    if clip > 0:
        negative = (negative + clip).clamp(max=1)
    log_likelihood = targets * positive.clamp(min=eps).log() + (1 - targets) * negative.clamp(min=eps).log()
    if gamma_neg > 0 or gamma_pos > 0:
        right = (positive * targets + negative * (1 - targets)).detach()
        log_likelihood = log_likelihood * (1 - right) ** (gamma_pos * targets + gamma_neg * (1 - targets))
    return -log_likelihood.sum()
