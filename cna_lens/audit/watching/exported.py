"""A watch as metrics of Prometheus: counts and evidence, no text and no token."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from cna_lens.audit.watching.watching import Watch
from cna_lens.errors import InputError

HOST = "127.0.0.1"


class WatchCollector:
    """What a watch has counted, for a registry of the package prometheus-client.

        registry.register(audit.WatchCollector(watched))

    | metric | what it is |
    |---|---|
    | `cna_lens_watch_requests_total` | requests that were watched |
    | `cna_lens_watch_tokens_total` | tokens that went through the model, generated ones included |
    | `cna_lens_watch_reference_requests` | requests of the reference |
    | `cna_lens_watch_evidence` | the betting capital as a multiple of its start, `Watch.evidence` |
    | `cna_lens_watch_evidence_alarm` | the evidence at which the alarm is raised |
    | `cna_lens_watch_alarm` | 1 since the alarm, 0 before |

    Each has the label `model`, the model's name. The values are read at each scrape, in the thread
    of the server; the watch does nothing for it.
    """

    def __init__(self, watched: Watch) -> None:
        """Read this watch at each scrape."""
        self._watched = watched

    def collect(self) -> Iterator[Any]:
        """Yield the metrics as they are now."""
        core = _package().metrics_core
        watched = self._watched
        counters = {
            "requests": ("Requests that were watched.", watched.n_requests),
            "tokens": ("Tokens that went through the model.", watched.n_tokens),
        }
        gauges = {
            "reference_requests": ("Requests of the reference.", watched.n_reference),
            "evidence": ("Betting capital as a multiple of its start.", watched.evidence),
            "evidence_alarm": ("Evidence at which the alarm is raised.", 1 / watched.rate),
            "alarm": ("1 since the alarm, 0 before.", int(watched.alarm is not None)),
        }
        for kind, metrics in (
            (core.CounterMetricFamily, counters),
            (core.GaugeMetricFamily, gauges),
        ):
            for name, (text, value) in metrics.items():
                family = kind(f"cna_lens_watch_{name}", text, labels=["model"])
                family.add_metric([watched.model], value)
                yield family


@contextmanager
def serve_metrics(watched: Watch, port: int, host: str = HOST) -> Generator[str]:
    """Serve the metrics of a watch, in Prometheus's text format, within a context.

        with audit.watch(model, circuit, usual) as watched, audit.serve_metrics(watched, 9464):
            serve(model)

    Whoever reaches the address can read the model's name and the counts, so the default is this
    machine alone.

    Args:
        watched: the watch.
        port: the port; 0 takes a free one.
        host: the address to listen at.

    Yields:
        The URL of the metrics.

    Raises:
        InputError: the package prometheus-client is missing, or the port cannot be listened at.
    """
    package = _package()
    registry = package.CollectorRegistry()
    registry.register(WatchCollector(watched))
    try:
        server, thread = package.start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"metrics cannot be served at {host}, port {port}: {error}; give another port"
        ) from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _package() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise InputError(
            "metrics need the package prometheus-client: pip install 'cna-lens[metrics]'"
        ) from error
    return prometheus_client
