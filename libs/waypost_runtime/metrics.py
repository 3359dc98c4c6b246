"""Metrics: declared with OpenTelemetry where they are counted, read by Prometheus at `/metrics`."""

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 14400)


def setup(service: str, instance: str) -> None:
    """Once a process, before anything is counted that should be seen."""
    reader = PrometheusMetricReader()
    resource = Resource({SERVICE_NAME: f"waypost-{service}", SERVICE_INSTANCE_ID: instance})
    seconds = View(
        instrument_unit="s", instrument_name="*", aggregation=ExplicitBucketHistogramAggregation(boundaries=_SECONDS)
    )
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader], resource=resource, views=[seconds]))


def render() -> tuple[bytes, str]:
    """The text exposition of all metrics, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
