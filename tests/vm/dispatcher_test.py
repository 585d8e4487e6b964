#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests/netns/xdp_dispatcher_test.py on Debian's cloud kernel: libxdp's dispatcher needs a kernel that lets
functions of BPF programs be replaced, which not every kernel that runs these tests does.

Arguments are those of the test, as names of its cases. Emulated, each kill takes ten seconds: unless TPX_TEST_SCALE says
otherwise there is a fifth of them.
"""
import os
import pathlib
import re
import shutil
import signal
import sys
import sysconfig
import tempfile

import vm_test

NETNS = vm_test.HERE.parent / "netns"
TOOLS = (*vm_test.GUEST_TOOLS, "nft", "nsenter", "setpriv", "strace", "xdp-loader")
DISPATCHER = pathlib.Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", "bpf/xdp-dispatcher.o")
SECONDS = 900
# Of the standard library what no test needs, by size.
NEEDLESS = ("__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter",
            "turtledemo", "config-*")


def add_python(root):
    vm_test.add_program(root, "/usr/bin/python3", "python3")
    library = pathlib.Path(sysconfig.get_path("stdlib", vars={"base": "/usr", "installed_base": "/usr"}))
    shutil.copytree(library, root / library.relative_to("/"), ignore=shutil.ignore_patterns(*NEEDLESS))
    for module in library.glob("lib-dynload/*.so"):
        vm_test.add_libraries(root, module)


def add_tests(root):
    add_python(root)
    target = root / "repo/tests/netns"
    target.mkdir(parents=True)
    for script in NETNS.glob("*.py"):
        shutil.copy(script, target)
    vm_test.run(shutil.which("clang"), "-target", "bpf", "-O2", "-g", "-isystem",
                f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}", "-c", NETNS / "counting_xdp.bpf.c",
                "-o", target / "counting_xdp.o")
    folder = root / DISPATCHER.parent.relative_to("/")
    folder.mkdir(parents=True)
    shutil.copy(DISPATCHER, folder)
    (root / "repo/arguments").write_text(" ".join(sys.argv[1:]))
    (root / "repo/scale").write_text(os.environ.get("TPX_TEST_SCALE", "0.2"))


def main():
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        vm_test.check_fitness()
        missing = [tool for tool in (*TOOLS, "clang") if not vm_test.find(tool)]
        if missing or not DISPATCHER.exists():
            raise vm_test.Unfit(f"missing: {' '.join(missing) or DISPATCHER}")
        with tempfile.TemporaryDirectory(prefix="tpx-vm-") as name:
            folder = pathlib.Path(name)
            kernel, version = vm_test.unpack_kernel(folder / "kernel")
            archive = vm_test.build_initramfs(folder, version, TOOLS, "guest_python.sh", add_tests)
            console, end = vm_test.boot(kernel, archive, SECONDS)
    except vm_test.Unfit as reason:
        print(f"skipped: {reason}")
        return 1 if vm_test.REQUIRED else vm_test.SKIP
    print(console)
    status = re.search(r"^exit status (\d+)$", console, re.MULTILINE)
    # The guest's kernel is a known one: what is skipped there is not tested at all.
    passed = status and status[1] == "0" and "skipped" not in console and "WARNING: CPU" not in console
    print(end or ("all checks passed" if passed else "not all tests passed"))
    return 0 if passed and not end else 1


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main())
