"""`kitserve`, or `python -m gateway.cli`."""

import gc

from gateway.cli.signals import end_at_once, restore_signals
from gateway.cli.user import name_user

_OBJECTS = 100_000
"""Python looks for cycles of garbage after so many new objects; `kitserve serve` makes few of them."""


def main() -> None:
    """Run the command line."""
    # Imports make no garbage: to look for it after every 700 objects takes a twentieth of a short command.
    gc.set_threshold(_OBJECTS)
    end_at_once()
    name_user()
    from gateway.cli.main import main as run

    restore_signals()
    run()


if __name__ == "__main__":
    main()
