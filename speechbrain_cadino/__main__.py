"""The command line: ``python -m speechbrain_cadino COMMAND ...``."""

import sys

from speechbrain_cadino.commands.main import main

if __name__ == "__main__":
    main(sys.argv[1:])
