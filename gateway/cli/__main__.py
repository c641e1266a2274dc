"""`python -m gateway.cli` is `kitserve`."""

from gateway.cli.main import main

main()
