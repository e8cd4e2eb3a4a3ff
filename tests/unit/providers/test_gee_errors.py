"""What Earth Engine's refusals ask of the caller."""

from __future__ import annotations

import pytest

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TooComplexError, TransientProviderError
from rsembed.providers.gee_errors import classify


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (429, "Too Many Requests: Request was rejected because the rate limit was exceeded.", QuotaError),
        (429, "Quota exceeded for quota metric 'Read requests'", QuotaError),
        (403, "userRateLimitExceeded", QuotaError),
        (400, "Too many concurrent aggregations.", QuotaError),
        (400, "User memory limit exceeded.", TooComplexError),
        (400, "Computation timed out.", TooComplexError),
        (400, "Total request size (60000000 bytes) must be less than or equal to 50331648 bytes.", TooComplexError),
        (400, "Pixel grid dimensions (40000x10) must be less than or equal to 32768.", TooComplexError),
        (500, "An internal error has occurred", TransientProviderError),
        (503, "The service is currently unavailable.", TransientProviderError),
        (401, "Request had invalid authentication credentials.", AuthError),
        (403, "Caller does not have required permission to use project p.", AuthError),
        (None, "Please authorize access to your Earth Engine account by running `earthengine authenticate`", AuthError),
        (400, "Image.select: Band pattern 'B77' did not match any bands.", ProviderError),
        (404, "ImageCollection.load: ImageCollection asset 'X/Y' not found", ProviderError),
    ],
)
def test_classify_when_refused_then_the_class_says_what_to_do(
    status: int | None, message: str, expected: type[ProviderError]
) -> None:
    error = classify(message, status)
    assert type(error) is expected
    assert message.rstrip(".") in str(error)


def test_classify_when_there_is_no_login_then_the_command_is_named() -> None:
    assert "run `earthengine authenticate`" in str(classify("invalid_grant: Bad Request", 401))


def test_classify_when_a_slow_computation_also_says_quota_then_it_is_still_split() -> None:
    assert isinstance(classify("Computation timed out. Too many requests are running.", 400), TooComplexError)
