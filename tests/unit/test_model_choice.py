"""Number type and captions of a run, before anything starts."""

import goldens
import pytest

from pipeline.config import load_config
from pipeline.errors import ClusterError, ConfigError
from pipeline.model_choice import check_before_cluster, resolve_dtype, writes_captions


@pytest.mark.parametrize(("asked", "written"), [("auto", True), (True, True), (False, False)])
def test_tag2text_writes_captions_unless_told_not_to(asked: str | bool, written: bool) -> None:
    """auto is yes where the model can."""
    assert writes_captions(asked, goldens.tiny_config(kind="tag2text")) is written


@pytest.mark.parametrize("kind", ["ram", "ram_plus"])
def test_captions_of_a_model_that_writes_none_are_refused(kind: str) -> None:
    """The key, the kind and the remedy are named; auto and false are fine."""
    model = goldens.tiny_config(kind=kind)
    assert not writes_captions("auto", model)
    assert not writes_captions(False, model)
    with pytest.raises(ConfigError, match=rf"output\.captions=true: a model of kind {kind} .* a tag2text bundle"):
        check_before_cluster(load_config(None, ["output.captions=true"]), model)


def test_fp16_on_cpus_is_refused_before_a_cluster_starts() -> None:
    """Where the configuration alone says so."""
    config = load_config(None, ["model.dtype=fp16", "fleet.use_cpu=true"])
    with pytest.raises(ConfigError, match=r"model\.dtype=fp16 with fleet\.use_cpu=true: .*fp32 or bf16"):
        check_before_cluster(config, goldens.tiny_config())


@pytest.mark.parametrize(
    ("asked", "planned", "preferred", "resolved"),
    [
        ("auto", None, {("cuda", "fp16")}, "fp16"),
        ("auto", None, {("cuda", "fp16"), ("cuda", "fp32")}, "fp32"),
        ("auto", None, {("cpu", "fp32")}, "fp32"),
        ("auto", None, {("cpu", "bf16")}, "bf16"),
        ("auto", None, {("cpu", "bf16"), ("cpu", "fp32")}, "fp32"),
        ("auto", None, {("cpu", "bf16"), ("cuda", "fp16")}, "fp32"),
        ("bf16", None, {("cpu", "fp32")}, "bf16"),
        ("auto", "fp32", {("cuda", "fp16")}, "fp32"),
        ("auto", "fp16", {("cuda", "fp16")}, "fp16"),
    ],
)
def test_one_number_type_for_all_cards(
    asked: str, planned: str | None, preferred: set[tuple[str, str]], resolved: str
) -> None:
    """auto is resolved once, to what suits all places or else to fp32, and a plan's stays."""
    assert resolve_dtype(asked, planned, preferred) == resolved


def test_mixed_runs_may_have_cpus_beside_fp16() -> None:
    """Every place takes its own; the finest of them stands in the plan, also when it is gone on with on CPUs."""
    assert resolve_dtype("auto", None, {("cpu", "bf16"), ("cuda", "fp16")}, mixed=True) == "fp16"
    assert resolve_dtype("auto", "fp16", {("cpu", "bf16")}, mixed=True) == "fp16"


def test_mixed_number_types_are_refused_beside_a_given_one() -> None:
    """Both keys and the remedy are named."""
    config = load_config(None, ["fleet.mixed_dtype=true", "model.dtype=bf16"])
    with pytest.raises(ConfigError, match=r"fleet\.mixed_dtype=true with model\.dtype=bf16: .* leave one of them out"):
        check_before_cluster(config, goldens.tiny_config())


@pytest.mark.parametrize(
    ("asked", "planned", "message"),
    [
        ("fp16", None, r"model\.dtype=fp16: .* give model\.dtype=fp32 or bf16"),
        ("auto", "fp16", r"model\.dtype: the run was planned with fp16, .* another --out"),
    ],
)
def test_fp16_is_refused_where_the_cluster_has_cpus_only(asked: str, planned: str | None, message: str) -> None:
    """Also when a run of cards is gone on with on CPUs."""
    with pytest.raises(ClusterError, match=message):
        resolve_dtype(asked, planned, {("cpu", "bf16")})
