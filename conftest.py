"""What holds for tests and for pages alike; the fixtures of tests are in `tests/conftest.py`."""

pytest_plugins = ["tests.suite", "tests.pages"]
