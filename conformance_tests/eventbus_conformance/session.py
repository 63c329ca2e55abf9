"""What pytest does while a backend is tested."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import pytest

from eventbus_conformance import fixtures, guard, report
from eventbus_conformance.clauses import NotDeclared, Unknown, check_gates, cited, denials
from eventbus_conformance.contract import LEVELS, Level
from eventbus_conformance.harness import load
from eventbus_conformance.outcomes import Outcome, Result
from eventbus_conformance.run import RUN, Options, Run

TEST_SECONDS = 120.0
"""A test that takes longer is stopped, and has failed; scaled."""


def begin(config: pytest.Config) -> None:
    """Have a run with what the command line asks for. ``pytest.UsageError``."""
    try:
        harness = load(config.getoption("--eventbus-backend"))(config.getoption("--eventbus-profile"))
    except (LookupError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[RUN] = Run(harness, _options(config))
    config.pluginmanager.register(fixtures, "eventbus_conformance.fixtures")
    config.pluginmanager.import_plugin("eventbus_conformance.session")


def _options(config: pytest.Config) -> Options:
    wanted = config.getoption("--eventbus-level").split(",")
    levels: tuple[Level, ...] = tuple(level for level in LEVELS if level in wanted)
    if len(levels) != len(set(wanted)):
        raise pytest.UsageError(f"--eventbus-level {','.join(wanted)}: there are {', '.join(LEVELS)}")
    seed = config.getoption("--eventbus-seed")
    return Options(
        levels=levels,
        scale=config.getoption("--eventbus-scale"),
        seed=random.randrange(2**31) if seed is None else seed,
        faults_seconds=config.getoption("--eventbus-faults-seconds"),
        report=config.getoption("--eventbus-report"),
        histories=config.getoption("--eventbus-histories"),
        partial=config.getoption("--eventbus-partial"),
    )


def pytest_report_header(config: pytest.Config) -> str:
    """What is tested, and with which seed."""
    run = config.stash[RUN]
    options = run.options
    return (
        f"eventbus conformance: {run.harness.backend}, profile {run.harness.profile}, "
        f"levels {','.join(options.levels)}, scale {options.scale:g}, --eventbus-seed={options.seed}"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the levels asked for; refuse copies of the suite's tests."""
    guard.refuse_copies(items)
    run = config.stash[RUN]
    own = [item for item in items if guard.level_of(item)]
    unwanted = {item for item in own if not guard.is_wanted(item, run.options.levels)}
    items[:] = [item for item in items if item not in unwanted]
    guard.mark_known_failures(run.harness, items)
    seconds = TEST_SECONDS * max(1.0, run.options.scale)
    for item in own:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Notice what is not there."""
    run = session.config.stash[RUN]
    run.missing = guard.missing(run.options.levels, session.items)
    run.collected = {guard.name_of(item) for item in session.items if guard.level_of(item)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have the broker, and run only what its backend declares and its harness can show."""
    run = item.config.stash[RUN]
    if guard.level_of(item):
        check_gates(item, run.start(), run.harness)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Refuse an override of what the suite's tests rest on."""
    node = request.node
    if isinstance(node, pytest.Item) and guard.level_of(node) and fixturedef.argname in fixtures.__all__:
        guard.refuse_overriding(fixturedef.argname, fixturedef.func.__module__)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how each test ended; an error in any of its phases counts."""
    result = yield
    run = item.config.stash[RUN]
    if not guard.level_of(item):
        return result
    name = guard.name_of(item)
    # What went wrong first is the reason; a teardown adds to it only where nothing had.
    failed_before = name in run.results and run.results[name].outcome == "fail"
    if not failed_before and (result.when == "call" or result.outcome != "passed"):
        outcome, reason = _outcome(result, call)
        run.results[name] = Result(
            name,
            tuple(each.id for each in cited(item)),
            denials(item),
            outcome,
            reason,
            round(result.duration, 3),
            gated=call.excinfo is not None and isinstance(call.excinfo.value, NotDeclared),
        )
    return result


def _outcome(result: pytest.TestReport, call: pytest.CallInfo[None]) -> tuple[Outcome, str]:
    reason = "" if call.excinfo is None else str(call.excinfo.value).partition("\n")[0]
    if result.outcome == "passed":
        return "pass", ""
    if hasattr(result, "wasxfail") and result.outcome == "skipped":
        return "known failure", result.wasxfail
    if result.outcome == "skipped":
        return "not proven", reason
    if call.excinfo is not None and isinstance(call.excinfo.value, Unknown):
        return "unknown", reason
    return "fail", reason or "it was known to fail, and passes: remove it from known_failures"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the broker, write the report; a run that left something out has failed."""
    run = session.config.stash[RUN]
    if session.config.option.collectonly:
        return
    run.harness.down()
    if run.options.report is not None:
        report.write(run, run.options.report)
    if run.left_out and not run.options.partial and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table."""
    run = config.stash[RUN]
    if not config.option.collectonly:
        report.print_table(run, terminalreporter)
