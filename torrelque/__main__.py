"""``python -m torrelque`` is the ``torrelque`` command."""

from torrelque.cli import main

if __name__ == '__main__':
    main()
