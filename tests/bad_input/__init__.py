"""Bad input: every flag and every kind of file, spoiled in many ways, for tests/test_bad_input.py."""
