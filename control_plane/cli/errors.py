"""What ends a command other than well: one line for a person, and a status for a shell."""

EXIT_FAILED = 1
EXIT_USAGE = 2


class CommandError(Exception):
    """The command could not do what was asked.

    `hint` says what to do, and ends with the command to type next.
    """

    def __init__(self, message: str, hint: str = "", *, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def line(self) -> str:
        """All of it on one line, whatever a server put into its message."""
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return " ".join(text.split())
