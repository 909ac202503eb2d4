"""Speed of what is here, beside honest twins of what is public; run by hand, not by the test suite."""
