"""`python -m npexp` is the `npexp` command."""

from npexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
