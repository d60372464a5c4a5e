"""What Prometheus is told: by its conventions, and never more than a bounded number of series."""

from __future__ import annotations

import os
import timeit
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pushd.metrics import OUTCOMES, Metrics, Outcome


def read(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples, as another program reads them: by name and labels."""
    text = metrics.expose()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, tuple(sorted(labels.items()))))


def test_streams_are_counted_by_transport_and_by_why_they_ended() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.opened("sse")
    metrics.opened("ndjson")
    metrics.closed("sse", "client left")
    metrics.closed("sse", "stalled")
    assert value(metrics, "pushd_streams", transport="sse") == 1
    assert value(metrics, "pushd_streams", transport="ndjson") == 1
    assert value(metrics, "pushd_streams_opened_total", transport="sse") == 3
    assert value(metrics, "pushd_streams_ended_total", transport="sse", why="client left") == 1
    assert value(metrics, "pushd_streams_ended_total", transport="sse", why="stalled") == 1


def test_a_fan_out_counts_for_each_client() -> None:
    metrics = Metrics()
    metrics.delivered("sse", 1000, 3, 412)
    metrics.delivered("sse", 1, 0, 2)
    assert value(metrics, "pushd_deliveries_total", transport="sse") == 3000
    assert value(metrics, "pushd_sent_bytes_total", transport="sse") == 412_002


def test_a_fan_out_costs_next_to_nothing() -> None:
    """Or counting would be felt: there may be thousands of them in a second."""
    metrics = Metrics()
    seconds = min(timeit.repeat(lambda: metrics.delivered("sse", 9, 9, 9), number=2000, repeat=9))
    assert seconds / 2000 < 20e-6, "0.8 us on a quiet machine"


def test_events_savings_and_refusals_are_counted() -> None:
    metrics = Metrics()
    metrics.recorded(2)
    metrics.recorded(5)
    metrics.saved(1000)
    metrics.refused("max_clients")
    assert value(metrics, "pushd_events_total") == 7
    assert value(metrics, "pushd_saved_bytes_total") == 1000
    assert value(metrics, "pushd_refusals_total", why="max_clients") == 1


def test_polls_are_counted_by_outcome_from_zero() -> None:
    metrics = Metrics()
    metrics.polled("quotes/{symbol}", "changed")
    found = {
        outcome: value(metrics, "pushd_polls_total", source="quotes/{symbol}", outcome=outcome)
        for outcome in OUTCOMES
    }
    assert found == {**dict.fromkeys(OUTCOMES, 0.0), "changed": 1.0}


def test_topics_are_told_by_source_and_state() -> None:
    metrics = Metrics()
    metrics.sources({"a": {"ok": 2, "error": 1}})
    assert value(metrics, "pushd_topics", source="a", state="ok") == 2
    metrics.sources({"a": {"ok": 3, "error": 0}})
    assert value(metrics, "pushd_topics", source="a", state="ok") == 3
    assert value(metrics, "pushd_topics", source="a", state="error") == 0


def test_what_was_removed_from_the_configuration_leaves_nothing_behind() -> None:
    metrics = Metrics()
    metrics.polled("stays", "changed")
    sizes = []
    for n in range(50):
        metrics.polled(f"old-{n}", "failed")
        metrics.sources({"stays": {"ok": 1}, f"new-{n}": {"ok": 1}})
        sizes.append(len(read(metrics)))
        assert not [labels for _, labels in read(metrics) if ("source", f"old-{n}") in labels]
    assert len(set(sizes)) == 1
    assert value(metrics, "pushd_polls_total", source="stays", outcome="changed") == 1


@given(st.lists(st.tuples(st.text(), st.sampled_from(OUTCOMES)), max_size=9))
def test_any_template_can_be_a_label(polls: list[tuple[str, Outcome]]) -> None:
    metrics = Metrics()
    for source, outcome in polls:
        if source.isprintable():
            metrics.polled(source, outcome)
    total = sum(n for (name, _), n in read(metrics).items() if name == "pushd_polls_total")
    assert total == len([source for source, _ in polls if source.isprintable()])


@pytest.mark.parametrize(
    ("measure", "name", "first"),
    [
        (Metrics.reached, "pushd_delivery_seconds", "0.0005"),
        (Metrics.lagged, "pushd_reactor_lag_seconds", "0.001"),
    ],
)
def test_times_are_histograms(measure: Any, name: str, first: str) -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.3, 60.0):
        measure(metrics, seconds)
    assert value(metrics, f"{name}_bucket", le=first) == 1
    assert value(metrics, f"{name}_bucket", le="0.2") == 1
    assert value(metrics, f"{name}_bucket", le="0.5") == 2
    assert value(metrics, f"{name}_bucket", le="+Inf") == 3
    assert value(metrics, f"{name}_sum") == pytest.approx(60.3004)


def test_a_clock_that_was_set_back_does_not_upset_the_sum() -> None:
    metrics = Metrics()
    metrics.reached(-3600.0)
    metrics.lagged(-3600.0)
    assert value(metrics, "pushd_delivery_seconds_sum") == 0
    assert value(metrics, "pushd_reactor_lag_seconds_sum") == 0


def test_deliveries_are_measured_from_half_a_millisecond_to_ten_seconds() -> None:
    edges = [
        float(dict(labels)["le"])
        for name, labels in read(Metrics())
        if name == "pushd_delivery_seconds_bucket"
    ]
    assert (min(edges), sorted(edges)[-2]) == (0.0005, 10.0)


def test_two_daemons_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.recorded(1)
    assert value(other, "pushd_events_total") == 0


def test_the_process_is_told_by_the_usual_names() -> None:
    found = {name: value for (name, _), value in read(Metrics()).items()}
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_max_fds"] >= 64
    assert found["process_start_time_seconds"] > 1_600_000_000
    assert "python_info" in found
    assert not [name for name in found if name.endswith("_created")]


def test_open_files_are_counted_where_the_system_does() -> None:
    before = value(Metrics(), "process_open_fds")
    files = [os.dup(0) for _ in range(20)]
    try:
        after = value(Metrics(), "process_open_fds")
    finally:
        for file in files:
            os.close(file)
    if before is not None and after is not None:
        assert after - before == 20


def test_without_proc_the_rest_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("pushd.process._MEMORY", tmp_path / "none")
    found = {name for name, _ in read(Metrics())}
    assert "process_cpu_seconds_total" in found
    assert "process_resident_memory_bytes" not in found


def test_it_is_prometheus_text() -> None:
    body, content_type = Metrics().expose()
    assert content_type.startswith("text/plain; version=")
    assert body.endswith(b"\n")
