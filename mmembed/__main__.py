"""`python -m mmembed` is `mmembed`."""

from mmembed.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
