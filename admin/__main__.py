"""`python -m admin …` is `usher …` without an installed launcher."""

from admin.cli import main

main()
