"""The listening descriptors of a socket unit: made as its settings say (spec supervisor 4.3).

A `Listen*` line becomes one descriptor, in the order of the lines. All or none: what was opened before a failure
is closed again. The file of a socket that is left over is removed first; another kind of file is not.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import socket
import stat
import struct
from collections.abc import Callable
from typing import Final

from holdfast.service.settings import Listen, SocketSettings

_TYPES: Final = {
    "Stream": socket.SOCK_STREAM,
    "Datagram": socket.SOCK_DGRAM,
    "SequentialPacket": socket.SOCK_SEQPACKET,
}
_SOL_NETLINK_PROTOCOLS: Final = {"route": 0, "firewall": 3, "audit": 9, "kobject-uevent": 15, "generic": 16}
_VSOCK: Final = re.compile(r"vsock:(\d*):(\d+)")
_HOST_PORT: Final = re.compile(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([0-9.]+)):(\d{1,5})")
_SO_PASSCRED: Final = 16
_SO_PASSSEC: Final = 34
_IP_FREEBIND: Final = 15
_IP_TRANSPARENT: Final = 19
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49
_F_SETPIPE_SZ: Final = 1031
_BACKLOG_MAX: Final = 2**31 - 1
_FLUSH: Final = 1024


class ListenError(Exception):
    """One line of a socket unit cannot be served: which, and why."""


def open_all(settings: SocketSettings) -> list[int]:
    """The descriptors, close-on-exec, in blocking mode. ListenError: none is open."""
    opened: list[int] = []
    try:
        for one in settings.listen:
            try:
                opened.append(_open(one, settings))
            except (OSError, ValueError, KeyError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                raise ListenError(f"Listen{one.kind}={one.address}: {reason}") from error
        if not opened:
            raise ListenError("the unit has no Listen line")
        _link(settings)
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def unlink_all(settings: SocketSettings) -> None:
    """Remove the files (`RemoveOnStop=`), links included. What cannot be removed stays."""
    for one in settings.listen:
        if one.address.startswith("/"):
            with contextlib.suppress(OSError):
                os.unlink(one.address)
    for link in settings.symlinks:
        with contextlib.suppress(OSError):
            os.unlink(link)


def drain(descriptor: int, accept: bool) -> None:
    """Throw away what waits (`FlushPending=`): at most `_FLUSH` items."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        blocking = sock.getblocking()
        sock.setblocking(False)
        try:
            for _ in range(_FLUSH):
                if accept:
                    sock.accept()[0].close()
                else:
                    sock.recv(65536)
        except OSError:
            pass
        finally:
            sock.setblocking(blocking)  # Also that of the descriptor: they share it.


def _open(one: Listen, settings: SocketSettings) -> int:
    if one.kind in _TYPES:
        return _open_socket(one, settings)
    if one.kind == "FIFO":
        return _open_fifo(one.address, settings)
    if one.kind == "Netlink":
        return _open_netlink(one.address)
    raise ValueError("this kind of descriptor is not supported")


def _open_netlink(address: str) -> int:
    family, _, group = address.partition(" ")
    if family not in _SOL_NETLINK_PROTOCOLS:
        raise ValueError(f"unknown netlink family {family!r}")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOL_NETLINK_PROTOCOLS[family]) as sock:
        sock.bind((0, int(group or 0)))
        return sock.detach()


def _open_fifo(path: str, settings: SocketSettings) -> int:
    _make_parents(path, settings)
    with _mask(settings.socket_mode), contextlib.suppress(FileExistsError):
        os.mkfifo(path, settings.socket_mode)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, "another file is in its place")
    _own(path, settings)
    if settings.pipe_size:
        import fcntl

        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, settings.pipe_size)
    return descriptor


def _open_socket(one: Listen, settings: SocketSettings) -> int:
    family, address = _address(one.address)
    with socket.socket(family, _TYPES[one.kind]) as sock:
        if family is socket.AF_INET6:
            only = {"both": 0, "ipv6-only": 1}.get(settings.bind_ipv6_only)
            if only is not None or one.address.isdigit():
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only or 0)
        if family is not socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for level, option, value in _options(family, settings):
            sock.setsockopt(level, option, value)
        if settings.bind_to_device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, settings.bind_to_device.encode() + b"\0")
        if isinstance(address, str) and address.startswith("/"):
            _make_parents(address, settings)
            _remove_stale(address)
            with _mask(settings.socket_mode):
                sock.bind(address)
            _own(address, settings)
        else:
            sock.bind(address)
        if one.kind != "Datagram":
            sock.listen(min(settings.backlog, _BACKLOG_MAX))
        return sock.detach()


def _options(family: int, settings: SocketSettings) -> list[tuple[int, int, int]]:
    base, tcp, ip = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP
    is_ip = family in (socket.AF_INET, socket.AF_INET6)
    wanted: list[tuple[object, int, int, int]] = [
        (settings.keep_alive, base, socket.SO_KEEPALIVE, 1),
        (settings.broadcast, base, socket.SO_BROADCAST, 1),
        (settings.reuse_port, base, socket.SO_REUSEPORT, 1),
        (settings.pass_credentials, base, _SO_PASSCRED, 1),
        (settings.pass_security, base, _SO_PASSSEC, 1),
        (settings.priority is not None, base, socket.SO_PRIORITY, settings.priority or 0),
        (settings.mark is not None, base, socket.SO_MARK, settings.mark or 0),
        (settings.receive_buffer, base, socket.SO_RCVBUF, settings.receive_buffer or 0),
        (settings.send_buffer, base, socket.SO_SNDBUF, settings.send_buffer or 0),
        (settings.no_delay and is_ip, tcp, socket.TCP_NODELAY, 1),
        (settings.free_bind and is_ip, ip, _IP_FREEBIND, 1),
        (settings.transparent and is_ip, ip, _IP_TRANSPARENT, 1),
        (settings.ip_ttl is not None and is_ip, ip, socket.IP_TTL, settings.ip_ttl or 0),
        (settings.pass_packet_info and is_ip, ip, _IP_PKTINFO, 1),
        (
            settings.pass_packet_info and family is socket.AF_INET6,
            socket.IPPROTO_IPV6,
            _IPV6_RECVPKTINFO,
            1,
        ),
    ]
    return [(level, option, value) for on, level, option, value in wanted if on]


def _address(text: str) -> tuple[socket.AddressFamily, str | tuple[str, int] | tuple[int, int]]:
    """Family and address. ValueError."""
    if text.startswith("/"):
        return socket.AF_UNIX, text
    if text.startswith("@"):
        return socket.AF_UNIX, "\0" + text[1:]
    if text.isdigit():
        return socket.AF_INET6 if _has_ipv6() else socket.AF_INET, ("", _port(text))
    vsock = _VSOCK.fullmatch(text)
    if vsock:
        return socket.AF_VSOCK, (int(vsock[1] or 0xFFFFFFFF), int(vsock[2]))
    match = _HOST_PORT.fullmatch(text)
    if match:
        family = socket.AF_INET6 if match[1] else socket.AF_INET
        return family, (match[1] or match[2], _port(match[3]))
    raise ValueError("not an address")


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(f"{text} is no port")
    return port


def _has_ipv6() -> bool:
    return socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")


@contextlib.contextmanager
def _mask(mode: int):  # type: ignore[no-untyped-def]
    """The file gets its mode when it is made: there is no moment in which it is open to others."""
    old = os.umask(~mode & 0o777)
    try:
        yield
    finally:
        os.umask(old)


def _make_parents(path: str, settings: SocketSettings) -> None:
    parent = os.path.dirname(path)
    missing = []
    while parent and not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for directory in reversed(missing):
        with _mask(settings.directory_mode):
            os.mkdir(directory, settings.directory_mode)


def _remove_stale(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass


def _own(path: str, settings: SocketSettings) -> None:
    os.chmod(path, settings.socket_mode)
    user = _id(settings.socket_user, lambda name: pwd.getpwnam(name).pw_uid)
    group = _id(settings.socket_group, lambda name: grp.getgrnam(name).gr_gid)
    if settings.socket_user and group < 0 and not settings.socket_user.isdigit():
        group = pwd.getpwnam(settings.socket_user).pw_gid
    if user >= 0 or group >= 0:
        os.chown(path, user, group)


def _id(name: str, look_up: Callable[[str], int]) -> int:
    if not name:
        return -1
    try:
        return int(name) if name.isdigit() else look_up(name)
    except KeyError:
        raise ValueError(f"no user or group {name!r}") from None


def _link(settings: SocketSettings) -> None:
    target = next((one.address for one in settings.listen if one.address.startswith("/")), None)
    for link in settings.symlinks:
        if target is None:
            raise ListenError(f"Symlinks={link}: there is no socket in the file system to link to")
        try:
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(target, link)
        except OSError as error:
            raise ListenError(f"Symlinks={link}: {error.strerror}") from error


def peer_of(sock: socket.socket) -> tuple[str, str, dict[str, str]]:
    """Of an accepted connection: its instance's name behind the counter, its source, the service's variables."""
    if sock.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"{pid}-{uid}", str(uid), {}
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        (local, local_port), (remote, remote_port) = sock.getsockname()[:2], sock.getpeername()[:2]
        local, remote = _plain(local), _plain(remote)
        variables = {"REMOTE_ADDR": remote, "REMOTE_PORT": str(remote_port)}
        return f"{local}:{local_port}-{remote}:{remote_port}", remote, variables
    return "unknown", "", {}


def _plain(address: str) -> str:
    """Of a dual-stack socket, the IPv4 address."""
    return address.removeprefix("::ffff:") if "." in address else address.partition("%")[0]
