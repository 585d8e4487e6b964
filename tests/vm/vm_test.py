#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots Debian's cloud kernel in QEMU, without KVM, and runs guest.sh in it as the first process.

It shows the product on an older kernel than the one it was built on, and on real VLAN devices,
which not every kernel that runs these tests has. Kernels are kept in
${XDG_CACHE_HOME:-/var/cache}/tpx-bpf-tests.
"""
import fcntl
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ.get("TPX_BPF", str(HERE.parent.parent / "build/dev/tpx-bpf"))
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "/var/cache"), "tpx-bpf-tests")
REQUIRED = os.environ.get("TPX_REQUIRE_PRIV") == "1"
SKIP = 77
SECONDS = 300
QEMU = "qemu-system-x86_64"
HOST_TOOLS = (QEMU, "apt-cache", "apt-get", "cpio", "depmod", "dpkg-deb", "ldd", "modprobe", "strip")
GUEST_TOOLS = ("bpftool", "ip", "tc")
MODULES = ("8021q", "act_bpf", "cls_bpf", "sch_ingress", "tcp_diag", "veth")
# The oldest kernel of a supported Debian first; where there is none, that of the distribution.
OLDEST = r"linux-image-6\.1\.0-[0-9]+-cloud-amd64"
DISTRIBUTION = "linux-image-cloud-amd64"


class Unfit(Exception):
    """This machine cannot run the test, whatever the product does."""


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, **more)
    if done.returncode != 0:
        raise Unfit(f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode() if not more.get("input") else done.stdout


def check_fitness():
    if platform.machine() != "x86_64":
        raise Unfit(f"made for x86_64, not {platform.machine()}")
    missing = [tool for tool in HOST_TOOLS + GUEST_TOOLS if not find(tool)]
    if not pathlib.Path("/bin/busybox").exists():
        missing.append("busybox")
    if missing:
        raise Unfit(f"missing tools: {' '.join(missing)}")


def find(tool):
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def kernel_name():
    """Of the package, as apt knows it."""
    names = re.findall(rf"^({OLDEST}) ", run("apt-cache", "search", "--names-only", f"^{OLDEST}$"), re.MULTILINE)
    if names:
        return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    depends = re.search(r"Depends: (\S+)", run("apt-cache", "depends", DISTRIBUTION))
    if not depends:
        raise Unfit("apt knows no cloud kernel")
    return depends[1]


def kernel_package():
    """Path of the .deb; downloaded at most once, also by tests in parallel."""
    name = kernel_name()
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        lock = open(CACHE / "lock", "w", encoding="ascii")
    except OSError as error:
        raise Unfit(f"no cache: {error}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = sorted(CACHE.glob(f"{name}_*.deb"))
        if not kept:
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name, cwd=folder)
                for package in pathlib.Path(folder).glob("*.deb"):
                    kept.append(package.rename(CACHE / package.name))
    return kept[-1]


def unpack_kernel(folder):
    """The kernel's path and its version; the modules are in folder/lib/modules."""
    run("dpkg-deb", "-x", kernel_package(), folder)
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")
    kernel = next(folder.glob("boot/vmlinuz-*"), None)
    if not kernel:
        raise Unfit("the kernel's package has no kernel")
    version = kernel.name.removeprefix("vmlinuz-")
    run(find("depmod"), "-b", folder, version)
    return kernel, version


def add_modules(root, kernel, version):
    """With what they need, where modprobe of the guest finds them: the guest's kernel loads them itself."""
    folder = root / "lib/modules" / version
    folder.mkdir(parents=True)
    for module in MODULES:
        # a built-in module needs no file
        for line in run(find("modprobe"), "-d", kernel, "-S", version, "--show-depends", module).splitlines():
            if line.startswith("insmod "):
                path = pathlib.Path(line.split()[1])
                shutil.copy(path, folder)
                unpack = {".xz": ["xz", "-df"], ".zst": ["zstd", "-dqf", "--rm"]}.get(path.suffix)
                if unpack:
                    run(*unpack, folder / path.name)
    run(find("depmod"), "-b", root, version)


def add_program(root, program, name=None):
    """A program of this machine, its shared libraries and its loader, under their own paths."""
    target = root / "usr/bin" / (name or pathlib.Path(program).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    run("strip", "-o", target, program)
    add_libraries(root, program)


def add_libraries(root, program):  # or those of a library
    for library in re.findall(r"(/\S+) \(0x", run("ldd", program)):
        copy = root / library.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)


def build_initramfs(folder, version, tools=GUEST_TOOLS, init="guest.sh", add_more=lambda root: None):
    root = folder / "root"
    for name in ("bin", "dev", "proc", "run", "sbin", "sys", "tmp", "usr/sbin"):
        (root / name).mkdir(parents=True)
    add_modules(root, folder / "kernel", version)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in run("/bin/busybox", "--list").split():
        if applet not in (*tools, "busybox", "sh"):
            (root / ("sbin" if applet == "modprobe" else "bin") / applet).symlink_to("/bin/busybox")
    # busybox's own shell would take its applet for `ip`
    add_program(root, "/bin/dash", "dash")
    (root / "bin/sh").symlink_to("/usr/bin/dash")
    for tool in tools:
        add_program(root, find(tool))
    add_program(root, BINARY, "tpx-bpf")
    shutil.copy(HERE / "network.sh", root / "network.sh")
    shutil.copy(HERE / init, root / "init")
    (root / "init").chmod(0o755)
    add_more(root)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = folder / "initramfs"
    archive.write_bytes(run("cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet", cwd=root, input=names.encode()))
    return archive


def boot(kernel, archive, seconds=SECONDS):
    """The guest's console, and why it ended if not by itself."""
    # A guest that is emulated keeps a CPU busy; tests that run beside it wait for answers.
    command = ["nice", "-n", "5", QEMU, "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-display", "none",
               "-nodefaults", "-no-reboot", "-nic", "none", "-serial", "stdio", "-kernel", str(kernel),
               "-initrd", str(archive), "-append", "console=ttyS0 loglevel=4 panic=-1"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=seconds, check=False)
        output, end = done.stdout, None if done.returncode == 0 else f"QEMU ended with {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output, end = late.stdout or b"", f"the guest was not done after {seconds} s"
    return output.decode(errors="replace").replace("\r", ""), end


def verdict(console, end):
    """What is wrong; an empty list when all is well."""
    faults = [end] if end else []
    faults += re.findall(r"^not ok - .*", console, re.MULTILINE)
    plan = re.search(r"^1\.\.(\d+)$", console, re.MULTILINE)
    passed = len(re.findall(r"^ok - ", console, re.MULTILINE))
    if not plan:
        faults.append("the guest did not come to its end")
    elif not faults and passed != int(plan[1]):
        faults.append(f"{passed} checks of {plan[1]} were seen to pass")
    return faults


def main():
    # let the temporary directory and QEMU go
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        check_fitness()
        with tempfile.TemporaryDirectory(prefix="tpx-vm-") as name:
            folder = pathlib.Path(name)
            kernel, version = unpack_kernel(folder / "kernel")
            archive = build_initramfs(folder, version)
            print(f"Linux {version}", flush=True)
            console, end = boot(kernel, archive)
    except Unfit as reason:
        print(f"skipped: {reason}")
        return 1 if REQUIRED else SKIP
    print(console)
    faults = verdict(console, end)
    print("\n".join(faults) if faults else "all checks passed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
