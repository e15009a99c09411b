"""The command line: ``python -m speechbrain_cadino COMMAND ...``."""

from speechbrain_cadino.commands.main import main

if __name__ == "__main__":
    main()
