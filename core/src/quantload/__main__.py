"""`python -m quantload`."""

from __future__ import annotations

from quantload.cli import main

if __name__ == "__main__":
    main()
