"""Run the command as ``python -m dlnflow``."""

from dlnflow.cli.main import main

if __name__ == "__main__":
    main()
