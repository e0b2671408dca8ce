"""Errors that a client gets as {"error": reason}."""

from starlette.responses import JSONResponse, Response


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 400..599.
        reason: one sentence for the client.
        retry_after: seconds after which the client may retry; 0 = a retry does not help.
    """

    def __init__(self, status: int, reason: str, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after

    def response(self) -> Response:
        """The answer."""
        headers = {}
        if self.retry_after:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            # The rest of the request is not read.
            headers["connection"] = "close"
        return JSONResponse({"error": self.reason}, self.status, headers)
