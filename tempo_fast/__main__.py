"""`python -m tempo_fast` is `tempo-fast`."""

from tempo_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
