"""Grades the assignments of the course: runs submissions in a sandbox, judges them outside of it."""
