"""``python -m una_ref`` is the command ``una-ref``, from a checkout too."""

import sys

from una_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
