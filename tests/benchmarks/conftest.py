"""`pytest tests/benchmarks --benchmark-enable -n 0` ends with one table, in place of one for each group."""

from helpers.benchmark_table import conditions, machine_facts, plain_table, rows, small


def pytest_configure(config):
    if config.getoption("benchmark_enable"):
        config.option.benchmark_quiet = True  # before pytest-benchmark reads the option


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_facts(machine_info)


def pytest_terminal_summary(terminalreporter, config):
    session = config._benchmarksession
    if session.disabled or not session.benchmarks:
        return
    output = config.hook.pytest_benchmark_generate_json(
        config=config,
        benchmarks=session.benchmarks,
        include_data=False,
        machine_info=session.get_machine_info(),
        commit_info=config.hook.pytest_benchmark_generate_commit_info(config=config),
    )
    run = small(output)
    terminalreporter.section("benchmarks: ratios of seconds, medians over rounds with quartiles")
    terminalreporter.write_line(plain_table(rows(run["results"])))
    terminalreporter.write_line(conditions(run))
