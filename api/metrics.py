"""What Prometheus scrapes: how long requests take, and what the job book says at the moment of asking."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func
from sqlmodel import col, select

from api import tables
from api.database import Database, now
from api.jobs import ACTIVE, FINAL
from api.leases import LEASE_S

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The figures of one service."""

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "factory_request_seconds",
            "Time until an answer began.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Book(database))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note one request; `route` is a template, never what a caller made up."""
        self._latency.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Book(Collector):
    """Asks the job book at each scrape, so that any process may be asked and none remembers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        job, worker, unit = tables.Job, tables.Worker, tables.Unit
        with self._database.reading() as session:
            states = dict(session.exec(select(job.status, func.count()).group_by(job.status)).all())
            sums = select(func.sum(job.succeeded), func.sum(job.failed), func.sum(job.worker_s))
            succeeded, failed, worker_s = session.exec(sums).one()
            alive = select(worker.transport, worker.state, func.count()).where(
                col(worker.seen_at) > now(session) - LEASE_S
            )
            workers = session.exec(alive.group_by(worker.transport, worker.state)).all()
            units = session.exec(select(unit.kind, unit.state, func.count()).group_by(unit.kind, unit.state)).all()
        jobs = GaugeMetricFamily("factory_jobs", "Jobs by status.", labels=("status",))
        for status in (*ACTIVE, *FINAL):
            jobs.add_metric((status,), states.get(status, 0))
        yield jobs
        attempts = CounterMetricFamily("factory_attempts", "Attempts by outcome.", labels=("outcome",))
        attempts.add_metric(("success",), succeeded or 0)
        attempts.add_metric(("failure",), failed or 0)
        yield attempts
        yield CounterMetricFamily("factory_worker_seconds", "Time workers spent on attempts.", value=worker_s or 0.0)
        there = GaugeMetricFamily("factory_workers", "Workers by transport and state.", labels=("transport", "state"))
        for transport, state, count in workers:
            there.add_metric((transport, state), count)
        yield there
        work = GaugeMetricFamily("factory_units", "Pieces of work by kind and state.", labels=("kind", "state"))
        for kind, state, count in units:
            work.add_metric((kind, state), count)
        yield work
