"""The policy, asked by Serve's own autoscaling code, with what workers would report."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    HandleMetricReport,
    ReplicaID,
    ReplicaMetricReport,
    TimeStampedValue,
)
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve.config import AutoscalingConfig

from gateway.config.models import Replicas
from gateway.control.loop.ray_serve import autoscaling
from gateway.worker.scaling import IDLE, ONGOING

ID = DeploymentID("worker", "iris")


class Serve:
    """Serve's autoscaling of one version, a decision at a time."""

    def __init__(self, **replicas: object) -> None:
        scaling = Replicas.model_validate(replicas).scaling()
        self.config = AutoscalingConfig(**autoscaling(scaling))
        self._state = DeploymentAutoscalingState(ID)
        info = DeploymentInfo(
            deployment_config=DeploymentConfig(autoscaling_config=self.config),
            replica_config=None,  # type: ignore[arg-type]  # it is not asked for
            start_time_ms=0,
            deployer_job_id="",
        )
        self.target = self._state.register(info, 1)

    def run(self, *workers: Mapping[str, float] | None) -> None:
        """These workers run, and report this; one that reports nothing yet is None."""
        now = time.time()
        ids = [ReplicaID(f"w{number}", ID) for number in range(len(workers))]
        self._state.update_running_replica_ids(ids)
        for replica, numbers in zip(ids, workers, strict=True):
            if numbers is not None:
                series = {
                    name: [TimeStampedValue(now - 0.5, value), TimeStampedValue(now, value)]
                    for name, value in numbers.items()
                }
                report = ReplicaMetricReport(replica_id=replica, timestamp=now, metrics=series)
                self._state.record_request_metrics_for_replica(report)

    def wait_in_handle(self, calls: int) -> None:
        """So many calls wait in a handle."""
        now = time.time()
        self._state.record_request_metrics_for_handle(
            HandleMetricReport(
                deployment_id=ID,
                handle_id="h",
                actor_id="a",
                handle_source=DeploymentHandleSource.REPLICA,
                queued_requests=[TimeStampedValue(now, calls)],
                metrics={},
                timestamp=now,
            )
        )

    def scaled_up(self, seconds_ago: float) -> None:
        """Serve added a worker then."""
        self._state._last_scale_up_time = time.time() - seconds_ago

    def decide(self) -> int:
        self.target = self._state.get_decision_num_replicas(self.target)
        return self.target


def busy(calls: float) -> dict[str, float]:
    return {ONGOING: calls, IDLE: 0.0}


def idle(seconds: float) -> dict[str, float]:
    return {ONGOING: 0.0, IDLE: seconds}


def scaled(**replicas: object) -> Serve:
    """Serve that decides at once."""
    return Serve(**{"target_ongoing_requests": 4, "upscale_delay": 1e-6, "downscale_delay": 1e-6, **replicas})


def test_workers_follow_the_calls_within_the_bounds() -> None:
    serve = scaled(min=1, max=3)
    for workers, expected in [
        ([busy(3)], 1),
        ([busy(5)], 2),
        ([busy(90)], 3),
        ([busy(4), busy(4), busy(3)], 3),
        ([busy(2), busy(1), busy(1)], 1),
        ([idle(900)], 1),
    ]:
        serve.run(*workers)
        serve.decide()
        time.sleep(0.001)
        assert serve.decide() == expected, workers


def test_more_come_after_seconds_and_go_after_a_minute() -> None:
    serve = Serve(min=1, max=3, upscale_delay="200ms", downscale_delay="500ms")
    started = time.monotonic()
    serve.run(busy(20))
    while serve.decide() == 1:
        assert time.monotonic() - started < 5
    assert 0.2 <= time.monotonic() - started < 0.5
    started = time.monotonic()
    serve.run(busy(1), busy(1), busy(1))
    while serve.decide() == 3:
        assert time.monotonic() - started < 5
    assert time.monotonic() - started >= 0.5
    defaults = Replicas()
    assert (defaults.upscale_delay, defaults.downscale_delay) == (2, 60)


def test_the_last_one_goes_when_it_was_idle_for_long() -> None:
    serve = scaled(min=0, max=2, downscale_to_zero_delay="5m")
    for worker, expected in ((None, 1), (busy(0.001), 1), (idle(299), 1), (idle(301), 0)):
        serve.run(worker)
        assert serve.decide() == expected, worker


def test_two_go_one_after_the_other_and_only_when_both_are_idle() -> None:
    serve = scaled(min=0, max=2)
    serve.target = 2
    serve.run(idle(400), idle(20))
    serve.decide()
    time.sleep(0.001)
    assert serve.decide() == 1, "the delay of the last one is not asked for"
    serve.run(idle(20))
    assert serve.decide() == 1


def test_a_worker_that_loads_is_not_idle_and_one_that_sleeps_stays_asleep() -> None:
    serve = scaled(min=0, max=2, downscale_to_zero_delay="1ms")
    serve.run()
    assert serve.target == 1, "a version starts with one"
    assert serve.decide() == 1
    serve.run(idle(1))
    assert serve.decide() == 0
    serve.run()
    assert serve.decide() == 0


def test_a_call_that_waits_in_a_handle_wakes_and_one_that_gave_up_does_not() -> None:
    serve = scaled(min=0, max=2)
    serve.target = 0
    serve.run()
    serve.wait_in_handle(1)
    assert serve.decide() == 1
    serve.wait_in_handle(0)
    serve.target = 0
    assert serve.decide() == 0


def test_a_worker_that_never_comes_is_given_up() -> None:
    serve = scaled(min=0, max=2)
    serve.run()
    serve.scaled_up(seconds_ago=600)
    assert serve.decide() == 1
    serve.scaled_up(seconds_ago=3700)
    assert serve.decide() == 0


def test_workers_report_each_second() -> None:
    """Serve means to replace this field by environment variables, which nothing in Ray 2.60 reads."""
    assert scaled().config.metrics_interval_s == 1
