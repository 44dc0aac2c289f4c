"""The asymmetric loss against the reference's numbers."""

import pytest
import torch
from goldens import load_golden
from torch.nn.functional import binary_cross_entropy_with_logits

from ramcore.losses import asymmetric_loss

SETTINGS = {
    "tagging": {"gamma_neg": 7, "gamma_pos": 0, "clip": 0.05},
    "alignment": {"gamma_neg": 4, "gamma_pos": 0, "clip": 0.05},
    "default": {"gamma_neg": 4, "gamma_pos": 1, "clip": 0.05},
    "noclip": {"gamma_neg": 2, "gamma_pos": 1, "clip": 0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_the_reference(name):
    """Loss and gradient are those of the reference, saturated logits included."""
    golden = load_golden("asl")
    logits = torch.tensor(golden[f"{name}_x"], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor(golden[f"{name}_y"]), **SETTINGS[name])
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"{name}_loss"]), rel=1e-5)
    torch.testing.assert_close(logits.grad, torch.tensor(golden[f"{name}_grad"]), rtol=1e-5, atol=1e-6)


def test_without_focus_it_is_cross_entropy():
    """Gammas and clip of zero leave the plain binary cross-entropy."""
    logits = torch.linspace(-5, 5, 12).reshape(3, 4)
    targets = (torch.arange(12).reshape(3, 4) % 3 == 0).float()
    loss = asymmetric_loss(logits, targets, gamma_neg=0, gamma_pos=0, clip=0)
    expected = binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("enabled", [True, False])
def test_leaves_the_grad_mode_alone(enabled):
    """The reference switches gradients on for the whole process; this does not."""
    with torch.set_grad_enabled(enabled):
        asymmetric_loss(torch.zeros(2, 3), torch.ones(2, 3))
        assert torch.is_grad_enabled() is enabled


def test_takes_half_precision_logits():
    """Logits of mixed precision are summed in float32."""
    assert asymmetric_loss(torch.zeros(2, 3, dtype=torch.bfloat16), torch.ones(2, 3)).dtype == torch.float32
