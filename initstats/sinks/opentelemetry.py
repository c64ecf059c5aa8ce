"""Sink for OpenTelemetry metrics, which have the exponential histograms of the records."""

from __future__ import annotations

from typing import Any

from initstats.monitoring.row import Row, Table
from initstats.sinks.extras import refuse_pickle, require
from initstats.sinks.row_words import NamedNumbers, missing_groups, ordinary_tables
from initstats.statistics.histogram import BIAS

_NANOSECONDS = 1_000_000_000


class OpenTelemetry:
    """Export exponential histograms, without any loss, and scalars as gauges.

    A metric is called `initstats.<kind>` and has one point per tensor, with the attribute `tensor`;
    what is one number per name (momentum_cosine, near_zero, calls) is a gauge.
    The gauge of alerts has a point per new one (its value; attributes rule, severity, where and
    cause), that of missing values one per kind and reason (how many names).
    The export runs in the sink's thread, past the periodic reader of the SDK.

    Args:
        exporter: A `MetricExporter`, such as `OTLPMetricExporter()` or `ConsoleMetricExporter()`.
        attributes: Attributes of the resource, such as `{"service.name": "run 7"}`.

    Raises:
        ImportError: If opentelemetry-sdk is not installed (extra `opentelemetry`).
    """

    def __init__(self, exporter: Any, attributes: dict[str, str] | None = None) -> None:
        self._sdk = require(
            "opentelemetry.sdk.metrics.export", "sinks.OpenTelemetry", "opentelemetry"
        )
        resources = require("opentelemetry.sdk.resources", "sinks.OpenTelemetry", "opentelemetry")
        scopes = require(
            "opentelemetry.sdk.util.instrumentation", "sinks.OpenTelemetry", "opentelemetry"
        )
        points = require(
            "opentelemetry.sdk.metrics._internal.point", "sinks.OpenTelemetry", "opentelemetry"
        )
        self._buckets = points.Buckets
        self._exporter = exporter
        self._numbers = NamedNumbers()
        self._resource = resources.Resource.create(attributes or {})
        self._scope = scopes.InstrumentationScope("initstats")

    def write(self, row: Row) -> None:
        """Export a row.

        Args:
            row: The row.

        Raises:
            RuntimeError: If the exporter reports a failure.
        """
        sdk = self._sdk
        end = int(row.time * _NANOSECONDS)
        metrics = [
            sdk.Metric(f"initstats.{name}", "", "1", sdk.Gauge([self._gauge(value, end)]))
            for name, value in row.scalars().items()
        ]
        metrics += self._alerts_and_missing(row, end)
        for kind, numbers in self._numbers.of(row).items():
            points = [self._gauge(n, end, step=row.step, tensor=t) for t, n in numbers.items()]
            if points:
                metrics.append(sdk.Metric(f"initstats.{kind}", "", "1", sdk.Gauge(points)))
        for kind, table in ordinary_tables(row).items():
            if table.places is None:
                continue
            points = [self._point(table, i, end, row.step) for i in range(len(table))]
            histogram = sdk.ExponentialHistogram(points, sdk.AggregationTemporality.DELTA)
            metrics.append(sdk.Metric(f"initstats.{kind}", "", "1", histogram))
        scope = sdk.ScopeMetrics(self._scope, metrics, "")
        data = sdk.MetricsData([sdk.ResourceMetrics(self._resource, [scope], "")])
        if self._exporter.export(data) is not sdk.MetricExportResult.SUCCESS:
            msg = "initstats.sinks.OpenTelemetry: expected the export to succeed, got a failure"
            raise RuntimeError(msg)

    def close(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()

    def __getstate__(self) -> dict[str, Any]:
        refuse_pickle("sinks.OpenTelemetry", "an exporter", "make it in the process that writes")

    def _alerts_and_missing(self, row: Row, end: int) -> list[Any]:
        """Return what else a row has, as gauges."""
        sdk, step = self._sdk, row.step
        alerts = []
        for alert in row.alerts:
            names = ("rule", "severity", "where", "cause")
            attributes = {name: getattr(alert, name) for name in names}
            alerts.append(self._gauge(alert.value, end, step=step, **attributes))
        missing = [
            self._gauge(float(len(names)), end, step=step, kind=kind, reason=reason)
            for (kind, reason), names in missing_groups(row).items()
        ]
        return [
            sdk.Metric(f"initstats.{name}", "", "1", sdk.Gauge(points))
            for name, points in (("alert", alerts), ("missing", missing))
            if points
        ]

    def _gauge(self, value: float, end: int, **attributes: Any) -> Any:
        return self._sdk.NumberDataPoint(attributes, end, end, value)

    def _point(self, table: Table, i: int, end: int, step: int) -> Any:
        """Return one record: bucket k here is bucket k there."""
        assert table.places is not None
        places, records = table.places, table.records
        finite = int(records.finite[i])
        offset = places.first - (BIAS << places.scale)
        positive, negative = places.counts[i].tolist()
        return self._sdk.ExponentialHistogramDataPoint(
            attributes={"tensor": table.names[i], "step": step},
            start_time_unix_nano=end,
            time_unix_nano=end,
            count=finite,
            sum=float(records.moments[i, 0]) * finite if finite else 0.0,
            scale=places.scale,
            zero_count=int(records.counts[i, 4]),
            positive=self._buckets(offset, positive),
            negative=self._buckets(offset, negative),
            flags=0,
            min=float(records.moments[i, 5]) if finite else 0.0,
            max=float(records.moments[i, 6]) if finite else 0.0,
        )
