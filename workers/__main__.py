"""`python -m workers` is `factory`, for where the command itself is not on the path."""

from workers.cli import main

main()
