"""`python -m pocketvlm` is the command `pocketvlm`."""

from pocketvlm.cli import main

if __name__ == "__main__":
    main(prog_name="pocketvlm")
