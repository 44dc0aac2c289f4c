"""The table of cards: complete, consistent, and refused by field where it is wrong."""

import pytest
from loads import GIB, RAM_PLUS
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray.util import accelerators

from pipeline.cards.profiles import CardProfile, load_profiles, parse_profiles
from pipeline.cards.sizing import images_per_s_ceiling
from pipeline.errors import ConfigError

TABLE = load_profiles()
CONSUMER = [profile for profile in TABLE.cards if profile.card.startswith("GeForce")]
OWN = (
    "{card: T4, capability: '7.5', vram_gib: 16, bandwidth_gb_s: 300, fp16: 40, bf16: null, fp32: 8, tdp_w: 70, "
    "source: own}"
)
CAPABILITIES = {(6, 0), (6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)}


def entry(profile: CardProfile) -> str:
    return f"{profile.names[0]} {profile.vram_gib:g}"


def test_the_cards_that_people_rent_are_there() -> None:
    """At least 19 consumer cards and 12 of data centres, by distinct names."""
    assert len({profile.card for profile in CONSUMER}) >= 19
    assert len({profile.card for profile in TABLE.cards if profile not in CONSUMER}) >= 12


@pytest.mark.parametrize("profile", TABLE.cards, ids=entry)
def test_every_entry_is_consistent(profile: CardProfile) -> None:
    """16 bit is no slower than fp32 and at most 40 times as fast; bf16 is as fast as fp16; units are not mixed up."""
    assert profile.capability in CAPABILITIES
    assert 6 <= profile.vram_gib <= 192
    assert 150 <= profile.bandwidth_gb_s <= 8000
    assert 4 <= profile.fp32 <= 110
    assert 50 <= profile.tdp_w <= 1000
    assert profile.fp16 is not None
    assert 1 <= profile.fp16 / profile.fp32 <= 40
    assert profile.bf16 == (profile.fp16 if profile.capability >= (8, 0) else None)
    assert "NVIDIA" in profile.source


@pytest.mark.parametrize("profile", TABLE.cards, ids=entry)
def test_names_are_those_that_ray_gives(profile: CardProfile) -> None:
    """Ray makes its name of a card from the driver's: from each of ours it has to come to `card`."""
    named = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type
    assert profile.names
    for name in profile.names:
        assert named(name if name.startswith(("Tesla", "Quadro")) else f"NVIDIA {name}") == profile.card


def test_the_names_of_ray_itself_are_known() -> None:
    """Those of its constants that we have figures for are written as there."""
    theirs = {getattr(accelerators, f"NVIDIA_{name}") for name in ("TESLA_T4", "TESLA_V100", "A100", "H100", "L4")}
    assert theirs <= {profile.card for profile in TABLE.cards}


def test_no_entry_hides_another() -> None:
    """Name and memory together are there once."""
    keys = [(name, profile.vram_gib) for profile in TABLE.cards for name in profile.names]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("card", "name", "compute", "eager", "fused"),
    [
        ("H200", "NVIDIA H200", 2432, 1065, 1553),
        ("H100", "NVIDIA H100 80GB HBM3", 3044, 994, 1595),
        ("A100", "NVIDIA A100-SXM4-80GB", 960, 464, 653),
        ("L4", "NVIDIA L4", 372, 98, 166),
        ("A10G", "NVIDIA A10G", 215, 119, 159),
        ("T4", "Tesla T4", 200, 83, 123),
        ("GeForce-RTX-2080", "NVIDIA GeForce RTX 2080", 124, 76, 97),
    ],
)
def test_modelled_ceilings_of_the_released_model(card: str, name: str, compute: int, eager: int, fused: int) -> None:
    """Images/s of RAM++ in fp16, as they were worked out from operations, traffic and rates."""
    profile = TABLE.find(card, name)
    assert profile is not None
    assert profile.tflops("fp16") * 1e12 / RAM_PLUS.flops == pytest.approx(compute, rel=0.02)
    assert images_per_s_ceiling(profile, RAM_PLUS, "fp16", fused=False) == pytest.approx(eager, rel=0.02)
    assert images_per_s_ceiling(profile, RAM_PLUS, "fp16", fused=True) == pytest.approx(fused, rel=0.02)


@pytest.mark.parametrize(
    ("card", "name", "vram_gib", "found"),
    [
        ("A100", None, 39.5, ("A100-SXM4-40GB", 40)),
        ("A100", None, 79.1, ("A100-SXM4-80GB", 80)),
        ("A100", None, None, ("A100-SXM4-40GB", 40)),
        ("A100", "NVIDIA A100 80GB PCIe", 79.1, ("A100 80GB PCIe", 80)),
        ("RTX-6000", "NVIDIA RTX 6000 Ada Generation", 47.9, ("RTX 6000 Ada Generation", 48)),
        ("RTX-6000", None, 23.6, ("Quadro RTX 6000", 24)),
        ("GeForce-RTX-3060", "NVIDIA GeForce RTX 3060", 7.9, ("GeForce RTX 3060", 8)),
        ("RTX-2080", "GeForce RTX 2080 Ti", 10.9, ("GeForce RTX 2080 Ti", 11)),
        ("MI300", None, 192, None),
    ],
)
def test_the_profile_of_a_card(
    card: str, name: str | None, vram_gib: float | None, found: tuple[str, float] | None
) -> None:
    """The driver's name decides, then Ray's with the memory that is nearest; without memory the least."""
    profile = TABLE.find(card, name, None if vram_gib is None else int(vram_gib * GIB))
    assert (None if profile is None else (profile.names[0], profile.vram_gib)) == found


def test_a_file_overrides_and_adds(tmp_path) -> None:
    """The same card and memory is replaced, another is added, the rest stays."""
    path = tmp_path / "own.yaml"
    path.write_text(f"cards:\n  - {OWN}\n  - {OWN.replace('T4', 'X9')}\n")
    table = load_profiles(path)
    assert table.find("T4").bandwidth_gb_s == 300
    assert table.find("X9").source == "own"
    assert table.find("L4") == TABLE.find("L4")
    assert len(table.cards) == len(TABLE.cards) + 1


def test_every_wrong_field_is_named_at_once(tmp_path) -> None:
    """File, place, value and what is wrong, a line for each."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        "cards:\n  - {card: T4, capability: '7.5', vram_gib: -1, bandwidth_gb_s: fast, fp16: 6, bf16: null, fp32: 8}\n"
        "measured:\n  - {name: X, speed: 3}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_profiles(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"fleet.profiles={path}: ") for line in lines)
    for place in (
        "cards.0.vram_gib=-1: ",
        "cards.0.bandwidth_gb_s='fast': ",
        "cards.0.source: ",
        "measured.0.speed=3: ",
    ):
        assert sum(place in line for line in lines) == 1, place


def test_bf16_on_a_card_before_ampere_is_refused() -> None:
    """It would be sized for arithmetic that it has not."""
    text = f"cards: [{OWN.replace('null', '65')}]"
    with pytest.raises(ConfigError, match=r"cards\.0: .*write bf16: null"):
        parse_profiles(text, "file")


@pytest.mark.parametrize("text", ["cards: 3", "[1, 2]", "cards: [", "what: {}"])
def test_other_documents_are_refused(text: str) -> None:
    """In lines that begin with the file."""
    with pytest.raises(ConfigError, match=r"^file: "):
        parse_profiles(text, "file")


def test_a_file_that_is_not_there_is_refused(tmp_path) -> None:
    """Key and path are named."""
    with pytest.raises(ConfigError, match=r"fleet\.profiles=.*none\.yaml: No such file"):
        load_profiles(tmp_path / "none.yaml")
