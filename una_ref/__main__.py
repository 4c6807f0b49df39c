"""``python -m una_ref`` is the command ``una-ref``; it works from a checkout without installing."""

import sys

from una_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
