"""`python -m barenets`, for a bare checkout."""

from barenets.train.cli import main

raise SystemExit(main())
