"""Earth Engine's failures, classed once: what each asks of the caller.

By status and by text: the service answers 400 to a request that was too large as to one that is wrong. Texts
as documented in developers.google.com/earth-engine/guides/debugging and seen in public reports.
"""

from __future__ import annotations

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TooComplexError, TransientProviderError

LOGIN = (
    "run `earthengine authenticate` on this machine (or set GOOGLE_APPLICATION_CREDENTIALS to a service account's "
    "key), or use backend='stac', which needs no account"
)
PROJECT = (
    "Earth Engine needs a Google Cloud project: give project=, set RSEMBED_EE_PROJECT, or run "
    "`earthengine set_project PROJECT`"
)

_QUOTA = ("too many requests", "too many concurrent", "quota exceeded", "ratelimitexceeded", "rate limit")
_TOO_COMPLEX = (
    "user memory limit exceeded",
    "computation timed out",
    "total request size",
    "pixel grid dimensions",
    "too many pixels",
    "too many input pixels",
    "computed value is too large",
    "request payload size exceeds",
)
_LOGIN = (
    "please authorize access",
    "earthengine authenticate",
    "invalid_grant",
    "default credentials",
    "expired or rev",
)
_FORBIDDEN_PROJECT = (
    "caller does not have",
    "not registered",
    "has not been used in project",
    "serviceusage",
    "project",
)


def classify(message: str, status: int | None) -> ProviderError:
    """The error for a failed request: ``message`` and ``status`` as the service gave them (None: not known)."""
    message = " ".join(message.split()).rstrip(".")
    text = message.lower()
    said = f"Earth Engine answered {status}: {message}" if status else f"Earth Engine: {message}"
    if any(sign in text for sign in _TOO_COMPLEX):
        return TooComplexError(said)
    if status == 429 or (status in (None, 400, 403) and any(sign in text for sign in _QUOTA)):
        return QuotaError(said)
    if status == 401 or any(sign in text for sign in _LOGIN):
        return AuthError(f"{said}. To log in, {LOGIN}")
    if status == 403 and any(sign in text for sign in _FORBIDDEN_PROJECT):
        return AuthError(f"{said}. The account in use may not compute in this project. {PROJECT}")
    if (status is not None and status >= 500) or status == 408:
        return TransientProviderError(said)
    return ProviderError(said)
