"""One error for a Hub that does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def answering(what: str) -> Iterator[None]:
    """One error for a hub that cannot be reached; a refusal of the Hub (no permission, no such repository) is its own.

    Raises:
        ConnectionError: with the reason.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        yield
    except HfHubHTTPError:
        raise
    except (HTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"{what}: the Hub did not answer ({reason}); check the network and HF_HUB_OFFLINE"
        ) from error
