"""Machines other than this one: file systems and users that a namespace of Linux's gives a command."""

import shutil
import subprocess

import pytest
from helpers.run import command, environment

STRANGER = 54321  # a user id that no passwd knows


def namespace(*flags):
    """The words before a command that runs in a user namespace; the test is skipped where there are none."""
    words = ["unshare", "--user", *flags]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    return words


def bench_with_mounts(mounts, *arguments, cwd, home=None, timeout=300):
    """Runs `bench ARGUMENTS` where file systems are mounted: {folder: options of a tmpfs}."""
    return with_mounts(mounts, command(*arguments), cwd=cwd, env=environment(home), timeout=timeout)


def with_mounts(mounts, words, **options):
    """Runs a command where file systems are mounted: {folder: options of a tmpfs}."""
    lines = [f"mount -t tmpfs -o {options} none '{folder}'" for folder, options in mounts.items()]
    script = " && ".join([*lines, 'exec "$@"'])
    user = namespace("--map-root-user", "--mount")
    return subprocess.run(
        [*user, "sh", "-c", script, "sh", *words], capture_output=True, text=True, **options
    )


def bench_as_stranger(*arguments, cwd, home=None, timeout=300):
    """Runs `bench ARGUMENTS` as a user that no passwd knows and that has no $HOME, as containers do."""
    variables = environment(home)
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        variables.pop(name, None)
    words = [*namespace(f"--map-user={STRANGER}"), *command(*arguments)]
    return subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout)
