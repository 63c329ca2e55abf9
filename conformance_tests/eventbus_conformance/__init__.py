"""The conformance suite: what every backend must do, as tests that name no broker.

``test_behaviours`` holds the tests, ``fixtures`` what they ask for, ``members`` and ``member`` the members of groups as
separate processes, ``history`` the judgement of what those members handled.
"""
