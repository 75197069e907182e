"""An echo server: see echo.c. ctypes calls the shared library: no compiler is needed."""

import asyncio
import os
import signal
import socket
import sys
from ctypes import CDLL, POINTER, Structure, byref, sizeof
from ctypes import c_char, c_char_p, c_int32, c_int64, c_size_t, c_ubyte, c_uint32, c_void_p

# Its soname, which changes when the structs below do.
library = CDLL("libngx_rs_listen.so.0.1")
KINDS = {2: "TCP", 3: "MPTCP", 4: "fallback"}  # NGX_RS_CONNECTION_...


def fields(kind, names):
    return [(name, kind) for name in names.split()]


class Word(Structure):
    _fields_ = [("len", c_size_t), ("data", c_char_p)]


class Error(Structure):
    _fields_ = fields(c_uint32, "size status os_errno arg_index") + [("message", c_char * 256)]


class Listening(Structure):
    _fields_ = fields(c_uint32, "size flags") + [("sockaddr", c_void_p), ("socklen", c_uint32)]
    _fields_ += fields(c_int32, "type protocol backlog rcvbuf sndbuf fastopen keepidle keepintvl")
    _fields_ += fields(c_int32, "keepcnt fd outcome inherited opened_protocol")


class Info(Structure):
    _fields_ = fields(c_uint32, "size flags kind reserved") + fields(c_int64, "token subflows")
    _fields_ += fields(c_int64, "subflows_total bytes_sent bytes_received bytes_retransmitted")
    _fields_ += fields(c_int64, "retransmits data_sent_ms data_received_ms ack_received_ms")


class Subflow(Structure):
    _fields_ = fields(c_uint32, "size reserved") + [("id", c_int64)]
    _fields_ += fields(c_ubyte * 128, "local remote") + fields(c_int64, "sent received retransmits")
    _fields_ += fields(c_int64, "rtt_us congestion_window tcp_state")


def call(function, *arguments):
    error = Error(size=sizeof(Error))
    if function(*arguments, byref(error)) != 0:
        raise OSError(error.os_errno, error.message.decode())


def open_all(words):
    """The sockets that the words of a listen directive ask for."""
    words = [Word(len(word), word) for word in map(os.fsencode, words)]
    listen, sockets, count = c_void_p(), POINTER(Listening)(), c_size_t()
    array = (Word * len(words))(*words)
    call(library.ngx_rs_listen_parse, array, c_size_t(len(words)), None, byref(listen))
    size = c_size_t(sizeof(Listening))
    call(library.ngx_rs_listen_sockets, listen, size, byref(sockets), byref(count))
    call(library.ngx_rs_open_listening, sockets, count, None)
    opened = [socket.socket(fileno=sockets[i].fd) for i in range(count.value)]
    library.ngx_rs_listen_free(listen)
    return opened


def text(address):
    """A struct sockaddr_storage in words."""
    family, port = int.from_bytes(address[:2], sys.byteorder), int.from_bytes(address[2:4], "big")
    if family == socket.AF_INET6:
        return f"[{socket.inet_ntop(family, bytes(address[8:24]))}]:{port}"
    return f"{socket.inet_ntop(family, bytes(address[4:8]))}:{port}"


def figure(value, unit=1, decimals=0):
    return "-" if value < 0 else f"{value / unit:.{decimals}f}"


def describe(fd):
    info, count, paths = Info(size=sizeof(Info)), c_size_t(), (Subflow * 16)()
    paths[0].size = sizeof(Subflow)
    call(library.ngx_rs_connection_subflows, fd, paths, c_size_t(16), byref(count), byref(info))
    lines = [KINDS.get(info.kind, "other")]
    for path in paths[: count.value]:
        line = f"  {text(path.remote)} -> {text(path.local)} sent={figure(path.sent)}"
        line += f" received={figure(path.received)} retransmits={figure(path.retransmits)}"
        lines.append(f"{line} rtt_ms={figure(path.rtt_us, 1000, 3)}")
    print("\n".join(lines), flush=True)


async def serve(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    describe(writer.get_extra_info("socket").fileno())
    writer.close()


async def main():
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sockets = open_all(sys.argv[1:])
    servers = [await asyncio.start_server(serve, sock=opened) for opened in sockets]
    print("listening on", len(servers), "sockets", flush=True)
    await stop.wait()


asyncio.run(main())
