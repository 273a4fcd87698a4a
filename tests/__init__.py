"""The tests mirror src/raexla: unit/<package>/test_<module>.py."""
