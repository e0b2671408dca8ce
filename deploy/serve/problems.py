"""What a client is told when its request cannot be met."""


class ProblemError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 400..599.
        reason: one sentence for the client.
        retry_after: seconds after which it may be tried again; 0 = trying again does not help.
    """

    def __init__(self, status: int, reason: str, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after
