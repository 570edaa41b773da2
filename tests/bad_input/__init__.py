"""A campaign of bad input: every flag and every kind of file, spoiled in every way we could think of.

`python -m tests.bad_input` runs all cases and prints their number by kind; pytest runs the same ones.
"""
