# SPDX-License-Identifier: Apache-2.0
"""Bulk transfer in both directions of a connection at once, checked by SHA-256.

The client sends "T <number> <bytes>\\n" and then that many bytes, and half-closes.
The server meanwhile sends as many, then "digest address port" (of what it received and
of the caller it saw), and closes.
Each 64 KiB block is numbered, so a block that moves or repeats changes the digest.
"""
import hashlib
import os
import socket
import threading

BLOCK = 65536
_FILLER = hashlib.shake_128(b"tpx").digest(BLOCK)


def blocks(number, total):
    sent = 0
    while sent < total:
        head = f"{number:08d}{sent:016d}".encode()
        block = head + _FILLER[len(head):]
        yield block[:min(BLOCK, total - sent)]
        sent += BLOCK


def digest(number, total):
    known = hashlib.sha256()
    for block in blocks(number, total):
        known.update(block)
    return known.hexdigest()


def plain(address):
    """Without the prefix of an IPv4 address on an IPv6 socket."""
    return address[7:] if address.startswith("::ffff:") else address


def pump(sock, number, total):
    for block in blocks(number, total):
        sock.sendall(block)


def drain(sock, total, seen=b""):
    """Hashes total bytes; None as total means to the end. Returns count, digest, the bytes after them."""
    known, count = hashlib.sha256(), 0
    data = seen or sock.recv(1 << 18)
    while data:
        wanted = data if total is None else data[:total - count]
        known.update(wanted)
        count += len(wanted)
        if count == total:
            return count, known.hexdigest(), data[len(wanted):]
        data = sock.recv(1 << 18)
    return count, known.hexdigest(), b""


def answer(sock, data):
    while b"\n" not in data:
        data += sock.recv(4096)
    header, rest = data.split(b"\n", 1)
    number, total = map(int, header[1:].split())
    sender = threading.Thread(target=pump, args=(sock, number + 1, total))
    sender.start()
    _, received, _ = drain(sock, None, rest)
    sender.join()
    address, port = sock.getpeername()[:2]
    sock.sendall(f"{received} {plain(address)} {port}".encode())
    sock.shutdown(socket.SHUT_WR)


def one(address, port, number, total, results):
    result = {"number": number, "error": None}
    results.append(result)
    try:
        with socket.create_connection((address, port), 60) as sock:
            result["source"] = sock.getsockname()[:2]
            sock.sendall(f"T{number} {total}\n".encode())
            sender = threading.Thread(target=lambda: (pump(sock, number, total), sock.shutdown(socket.SHUT_WR)))
            sender.start()
            count, received, tail = drain(sock, total)
            sender.join()
            while more := sock.recv(4096):
                tail += more
            sent, seen, seen_port = tail.decode().split()
            result["down"] = count
            result["down_ok"] = received == digest(number + 1, total)
            result["up_ok"] = sent == digest(number, total)
            result["seen"] = [seen, int(seen_port)]
    except (OSError, ValueError) as error:
        result["error"] = str(error)


def run(address, port, count, total):
    results, base = [], os.getpid() % 1000 * 10_000
    threads = [threading.Thread(target=one, args=(address, port, base + 2 * i, total, results)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
