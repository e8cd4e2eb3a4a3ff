"""What a provider's answers say about the project that asks, told to the throttle."""

from __future__ import annotations

import logging
import threading

from rsembed.core.patch import Patch
from rsembed.providers.throttle import Throttle

logger = logging.getLogger(__name__)


class Restrictions:
    """Which throttles' projects are served slowly, by the note ``restricted`` of patches. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._restricted: set[int] = set()

    def heed(self, throttle: Throttle, patch: Patch) -> None:
        """Tell ``throttle``, once each time, that the provider has begun or ceased to serve the project slowly."""
        restricted = patch.provenance.get("restricted")
        with self._lock:
            if not isinstance(restricted, bool) or restricted == (id(throttle) in self._restricted):
                return
            self._restricted ^= {id(throttle)}
        event = "provider_restricted" if restricted else "provider_unrestricted"
        logger.warning(event, extra={"backend": patch.provenance.get("backend")})
        throttle.restrict(restricted)
        if restricted:
            throttle.quota()
