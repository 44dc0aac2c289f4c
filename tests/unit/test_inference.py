"""The faster form of finished models: the same results."""

import goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore import products
from ramcore.config import SwinConfig
from ramcore.inference import for_inference
from ramcore.products import FixedLinear
from ramcore.ram_plus import RamPlus
from ramcore.swin import build_swin
from ramcore.tag_model import TagModel
from ramcore.weights import model_class
from ramcore.window_order import WindowOrderSwin


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_fixed_linear_is_a_linear_layer(gelu: bool, bias: bool, dtype: torch.dtype, bound: float) -> None:
    """With GELU where asked, for any number of leading dimensions."""
    torch.manual_seed(0)
    linear = nn.Linear(40, 24, bias=bias)
    x = torch.randn(2, 7, 40)
    expected = F.gelu(linear(x)) if gelu else linear(x)
    cast = None if linear.bias is None else linear.bias.to(dtype)
    found = FixedLinear(linear.weight.to(dtype), cast, gelu)(x.to(dtype))
    assert (found.float() - expected).abs().max() <= bound * expected.abs().max()


def test_without_onednn_weights_are_shared_and_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card: nothing is copied."""
    monkeypatch.setattr(products, "_works", lambda dtype: False)
    linear = nn.Linear(40, 24)
    fixed = FixedLinear(linear.weight, linear.bias)
    assert not fixed.is_packed
    assert fixed._weight.data_ptr() == linear.weight.data_ptr()
    x = torch.randn(3, 40)
    assert torch.equal(fixed(x), linear(x))


@pytest.mark.lengthy
@settings(deadline=None, max_examples=15)
@given(
    window=st.integers(2, 4),
    windows=st.sampled_from([4, 8]),
    depths=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    batch=st.integers(1, 3),
    fused=st.booleans(),
    packed=st.booleans(),
)
def test_window_order_computes_what_timm_does(
    window: int, windows: int, depths: list[int], batch: int, fused: bool, packed: bool
) -> None:
    """For any sizes of windows and stages, with and without shifted windows, fused attention and packed weights."""
    torch.manual_seed(0)
    side = window * windows  # tokens of the first stage
    heads = tuple(2 * 2**stage for stage in range(len(depths)))
    swin = build_swin(
        SwinConfig(
            image_size=side * 2, patch_size=2, embed_dim=8, depths=tuple(depths), num_heads=heads, window_size=window
        )
    ).eval()
    _shake(swin)
    pixels = torch.randn(batch, 3, side * 2, side * 2)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        if not packed:
            patch.setattr(products, "_works", lambda dtype: False)
        found = WindowOrderSwin(swin, fused).forward_features(pixels)
        torch.testing.assert_close(found, swin.forward_features(pixels), rtol=1e-4, atol=1e-4)


def _shake(module: nn.Module) -> None:
    """Give every parameter a value of its own: norms and positions start as ones and zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def test_the_model_itself_stays_as_it_is(tiny_model: TagModel) -> None:
    """Its weights are the same objects with the same values, and the fast form has no copy of the descriptions."""
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    fast = for_inference(tiny_model)
    after = tiny_model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert isinstance(fast, RamPlus)
    assert fast.label_embed.data_ptr() == tiny_model.label_embed.data_ptr()


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["ram_plus", "ram", "tag2text"])
def test_all_kinds_keep_their_logits(kind: str) -> None:
    """Within a few units of the last place, and so within the bound to the reference."""
    golden = goldens.load_golden(f"tiny_{kind}")
    config = goldens.tiny_config(kind=kind)
    model = model_class(kind).from_state(config, goldens.synth_state(config, golden.get("fc_bias_override")))
    pixels = torch.from_numpy(golden["preproc"])
    with torch.inference_mode():
        logits = for_inference(model)(pixels)
        torch.testing.assert_close(logits, model(pixels), rtol=1e-5, atol=1e-5)
    assert goldens.largest_difference(logits, golden["logits"]) <= 5e-5


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["ram_plus", "ram", "tag2text"])
def test_all_tensors_are_on_the_device_of_the_model(kind: str) -> None:
    """Also the orders of tokens: a card takes no index that lies elsewhere. Proven on PyTorch's device without data."""
    config = goldens.tiny_config(kind=kind)
    fast = for_inference(model_class(kind).from_state(config, goldens.synth_state(config)).to("meta"))
    tensors = [*fast.parameters(), *fast.buffers()]
    fixed = [module for module in fast.modules() if isinstance(module, FixedLinear)]
    tensors += [tensor for module in fixed for tensor in (module._weight, module._bias) if tensor is not None]
    assert len(fixed) > 30
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert fast(torch.zeros(2, 3, 128, 128, device="meta")).shape == (2, 20)
