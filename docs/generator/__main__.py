"""`python -m docs.generator`, which `make docs` runs."""

import sys

from docs.generator.parts import main

sys.exit(main())
