"""What is said when a model cannot be fetched from the hub, which its client has tried several times by then."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from orchestrator.tracking.pump import redact_uri


class HubError(OSError):
    """A model could not be fetched; it may be there the next time."""


@contextlib.contextmanager
def hub_errors(key: str, name: str) -> Iterator[None]:
    """HubError naming whose model it is, the model and the file, whatever the network did; errors of a folder stay."""
    try:
        yield
    except Exception as error:
        address = None if Path(name).is_dir() else _address(error)
        if address is None:
            raise
        reason = redact_uri(" ".join(str(error).split())) or type(error).__name__
        raise HubError(
            f"{key}: cannot load {name}: {address}: {reason}; check the network, or name a folder"
        ) from error


def _address(error: BaseException | None) -> str | None:
    """Of the request that failed, if one did, without the keys that addresses of files carry behind a question mark."""
    while error is not None:
        with contextlib.suppress(RuntimeError):  # the client's errors have a request, or raise where they have none
            request = getattr(error, "request", None)
            if request is not None:
                return str(request.url).partition("?")[0]
        error = error.__cause__ or error.__context__
    return None
