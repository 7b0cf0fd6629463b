"""`python -m diffwave_sde`."""

from diffwave_sde.cli import main

if __name__ == "__main__":
    main()
