"""The one exception a user of foveal is meant to see."""


class UserError(ValueError):
    """Something the user gave cannot work.

    Args:
        message: what was given and which rule it broke, in lower case and without a full stop.
        hint: one thing that does work.
    """

    def __init__(self, message: str, hint: str):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint = message, hint
