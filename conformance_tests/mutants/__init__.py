"""Backends with one planted defect each, over the memory backend: what the conformance suite must catch.

``conformance_tests/tests/test_mutants.py`` says which clauses fail for which. They are installed for a test only.
"""
