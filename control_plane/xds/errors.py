"""What ends a subscriber's stream. The others never notice."""


class SubscriptionError(Exception):
    """Base: the message goes to the subscriber as the status of its stream."""


class BadRequest(SubscriptionError):
    """The subscriber sent what makes no sense, or too much; it would be refused again."""


class TooSlow(SubscriptionError):
    """The subscriber did not read or acknowledge in time; it may connect again and resume."""
