"""One tree for every error that rsembed raises on purpose.

::

    RSEmbedError
    ├── SpecError            a value of the request is wrong           (permanent)
    │   └── RowError         rows of the input table are wrong         (permanent)
    ├── ModelError           unknown model or option, wrong shape      (permanent)
    │   ├── UnknownModelError
    │   ├── ArgumentError    an argument is of the wrong kind; a SpecError, too
    │   │   └── ExportArgumentError  the same in target or config of an export
    │   ├── DeviceError      the device failed, not the row            (permanent)
    │   └── WeightsError     file missing, truncated or half-matching  (permanent)
    │       └── WeightsUnreachableError  their server did not answer   (transient)
    ├── ExportError          the output folder cannot take this run    (permanent)
    ├── StoreError           a folder or bucket is away or closed; no row's fault  (transient)
    │   ├── StoreFullError   no space left: wait, it is not an attempt (transient)
    │   └── StoreConflictError  other bytes stand under that name      (permanent)
    └── ProviderError        imagery could not be had                  (permanent)
        ├── AuthError        no or expired credentials                 (pause the provider)
        ├── TooComplexError  the service refuses the size              (split, never plainly retried)
        ├── CollectionGapError  a known hole of the catalogue          (row status `collection_gap`)
        └── TransientProviderError  time-out, lost connection, 5xx     (transient)
            └── QuotaError   slow everybody down; not an attempt       (transient)

``error_class`` is the short word under which failures are counted, selected and
retried. ``transient`` says whether the same call may succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class RSEmbedError(Exception):
    """Base of every error that rsembed raises on purpose."""

    error_class: ClassVar[str] = "permanent"
    transient: ClassVar[bool] = False


class SpecError(RSEmbedError, ValueError):
    """A value of the request (place, window, sensor, output) is wrong."""

    error_class = "bad_request"


class RowError(SpecError):
    """Rows of the input table are wrong; the message names them by number."""

    error_class = "bad_row"


class ModelError(RSEmbedError):
    """A model cannot do what was asked: unknown option, wrong shape, missing device."""

    error_class = "model"


class UnknownModelError(ModelError):
    """No model of that name; the message suggests the nearest ones."""


class ArgumentError(ModelError, SpecError):
    """An argument of a public function is of the wrong kind; found before any work. Both kinds catch it."""

    error_class = "bad_request"


class ExportArgumentError(ArgumentError):
    """The target or config of an export is wrong; found before any work."""


class DeviceError(ModelError):
    """The device failed under a forward pass; says nothing about the rows in it."""

    error_class = "device"


class WeightsError(ModelError):
    """A weights file is missing, truncated, altered or does not match the network."""

    error_class = "weights"


class WeightsUnreachableError(WeightsError):
    """The service that holds the file did not answer; the same call may succeed later."""

    error_class = "transient"
    transient = True


class ExportError(RSEmbedError):
    """The output folder belongs to another request, is in use, or is damaged."""

    error_class = "export"


class StoreError(RSEmbedError):
    """A folder or bucket cannot be read or written now: away, forbidden, misconfigured.

    Says something about the worker and its surroundings, nothing about the rows it works on.
    """

    error_class = "store"
    transient = True


class StoreFullError(StoreError):
    """No space is left where the store lies."""

    error_class = "store_full"


class StoreConflictError(StoreError):
    """Another object stands under the name; ``etag`` names the one that does ("" where it is gone again)."""

    error_class = "store_conflict"
    transient = False

    def __init__(self, message: str, etag: str) -> None:
        super().__init__(message)
        self.etag = etag


class ProviderError(RSEmbedError):
    """Imagery could not be had, and asking again would not help."""

    error_class = "provider"


class AuthError(ProviderError):
    """Credentials are missing or expired."""

    error_class = "auth"


class TooComplexError(ProviderError):
    """The service refuses a request of this size; it has to be split."""

    error_class = "too_complex"


class CollectionGapError(ProviderError):
    """The catalogue has a known hole at this place and time."""

    error_class = "collection_gap"


class TransientProviderError(ProviderError):
    """A time-out, a lost connection or a server fault; the same request may succeed later."""

    error_class = "transient"
    transient = True


class QuotaError(TransientProviderError):
    """The service asks to slow down; says nothing about the request itself."""

    error_class = "quota"


def classify(error: BaseException) -> str:
    """The error class under which ``error`` is recorded.

    Errors from outside the tree that mean a lost connection count as ``transient``,
    memory running out as ``out_of_memory``, anything else as ``internal``.
    """
    if isinstance(error, RSEmbedError):
        return error.error_class
    if isinstance(error, (TimeoutError, ConnectionError)):
        return TransientProviderError.error_class
    if isinstance(error, MemoryError):
        return "out_of_memory"
    return "internal"


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later without anybody changing anything."""
    if isinstance(error, RSEmbedError):
        return error.transient
    return isinstance(error, (TimeoutError, ConnectionError))
