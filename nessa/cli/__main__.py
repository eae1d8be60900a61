"""`python -m nessa.cli`."""

from nessa.cli.main import main

main()
