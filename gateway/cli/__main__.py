"""`kitserve`, or `python -m gateway.cli`."""

from gateway.cli.signals import end_at_once, restore_signals
from gateway.cli.user import name_user


def main() -> None:
    """Run the command line."""
    end_at_once()
    name_user()
    from gateway.cli.main import main as run

    restore_signals()
    run()


if __name__ == "__main__":
    main()
