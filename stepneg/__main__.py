"""``python -m stepneg``."""

from stepneg.cli import main

if __name__ == "__main__":
    main()
