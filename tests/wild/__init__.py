"""Models that nobody here wrote, each through one battery of comparisons with plain evaluation."""

import pytest

pytest.register_assert_rewrite("tests.wild.battery")
