"""A comparison as one HTML page that needs nothing else: no script, no font, no network."""

from markupsafe import Markup

from pipeline.config import FetchConfig, StorageConfig
from pipeline.report.charts import Change, change_chart
from pipeline.report.compare import (
    DRIFT_COLUMNS,
    Comparison,
    agreement_line,
    drift_tables,
    figure_rows,
    method_line,
    strange_line,
)
from pipeline.report.contact_sheet import contact_sheet
from pipeline.report.numbers import counted, share
from pipeline.report.page import fill
from pipeline.report.tag_drift import Drift

_MOST_BARS = 20
_TIMEOUT_S = 10.0


def render_comparison(found: Comparison, tags: int, images: int, fetch: FetchConfig, storage: StorageConfig) -> str:
    """The page. tags: of each table; images: so many that changed most, with their pictures if these can be read."""
    drift = found.drift
    changed = drift.changed[:images]
    rows = [
        {"image_id": image.image_id, "uri": image.uri, "sha256": image.sha256 or "", "tags": []} for image in changed
    ]
    pictures = contact_sheet(rows, fetch, storage, _TIMEOUT_S)
    return fill(
        "compare.html.j2",
        f=found,
        names=[report.root.rstrip("/").rpartition("/")[2] for report in (found.a, found.b)],
        headlines=_headlines(drift),
        method=method_line(drift),
        agreement=agreement_line(drift),
        columns=DRIFT_COLUMNS,
        drift=drift_tables(drift, tags),
        strange=strange_line(drift),
        chart=_chart(drift),
        changed=list(zip(changed, pictures, strict=True)),
        figures=figure_rows(found),
    )


def _headlines(drift: Drift) -> list[tuple[str, str, str]]:
    """(label, value, note)."""
    marked = sum(shift.marked for shift in drift.shifts)
    agreement = drift.agreement
    lines = [("tags that drifted", f"{marked:,}", f"marked, of {counted(drift.tested, 'tag')} in use")]
    for kind in ("appeared", "vanished"):
        shifts = drift.of_kind(kind)
        lines.append((f"tags that {kind}", f"{len(shifts):,}", f"{sum(shift.marked for shift in shifts):,} marked"))
    if agreement.mean_overlap is not None:
        note = f"of {agreement.images:,} images in both"
        lines.append(("with the same tags", share(agreement.same / agreement.images), note))
        lines.append(("of an image's tags are the same", share(agreement.mean_overlap), "on average"))
    return lines


def _chart(drift: Drift) -> Markup | None:
    shifts = [shift for shift in drift.shifts if shift.change][:_MOST_BARS]
    rows = [Change(s.tag, 100 * s.change, 100 * s.low, 100 * s.high, s.marked) for s in shifts]
    return change_chart("Tags whose share of images changed most", rows, "percentage points") if rows else None
