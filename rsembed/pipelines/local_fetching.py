"""Fetching in this process alone: what the settings say of the throttle and of the cache of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rsembed.core.settings import Settings
from rsembed.pipelines.input_cache import open_cache
from rsembed.pipelines.plan import RunPlan
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.retry import RetryPolicy
from rsembed.providers.base import ProviderBase
from rsembed.providers.throttle import LocalThrottle, throttle_limits


def open_prefetch(
    plan: RunPlan,
    provider: ProviderBase,
    settings: Settings,
    *,
    on_settled: Callable[[int], None] = lambda _: None,
) -> PrefetchManager:
    """A manager that fetches for ``plan`` from ``provider``; nothing is opened before its first unit."""
    limits = throttle_limits(provider.name, settings.throttle)
    config = plan.config
    retry = RetryPolicy(config.max_attempts)
    if config.retry_backoff_s is not None:
        retry = replace(retry, base_s=config.retry_backoff_s)
    return PrefetchManager(
        provider,
        workers=config.fetch_workers,
        retry=retry,
        throttle=LocalThrottle(limits.cap, limits.per_s),
        on_settled=on_settled,
        cache=open_cache(settings, plan.provider),
    )
