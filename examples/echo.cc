// An echo server: see echo.c. In C++ each thing has an owner that closes it.

#include <ngx_rs_listen.h>

#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

class Fd {
    int fd_;

public:
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd &&other) : fd_(other.fd_) { other.fd_ = -1; }
    ~Fd() { if (fd_ != -1) close(fd_); }
    int get() const { return fd_; }
};

static void check(ngx_rs_status_t status, const ngx_rs_error_t &error)
{
    if (status != NGX_RS_OK) throw std::runtime_error(error.message);
}

static std::vector<Fd> open_all(const std::vector<std::string> &text)
{
    std::vector<ngx_rs_str_t> words;
    for (const auto &word : text)
        words.push_back({ word.size(), reinterpret_cast<const uint8_t *>(word.data()) });

    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_listen_t *parsed;
    check(ngx_rs_listen_parse(words.data(), words.size(), nullptr, &parsed, &error), error);
    std::shared_ptr<ngx_rs_listen_t> listen(parsed, ngx_rs_listen_free);
    ngx_rs_listening_t *sockets;
    std::size_t count;
    check(ngx_rs_listen_sockets(parsed, sizeof(*sockets), &sockets, &count, &error), error);
    check(ngx_rs_open_listening(sockets, count, nullptr, &error), error);
    std::vector<Fd> opened;
    for (std::size_t i = 0; i < count; i++) opened.emplace_back(sockets[i].fd);
    return opened;
}

static std::string text(const sockaddr_storage &address)
{
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    getnameinfo(reinterpret_cast<const sockaddr *>(&address), sizeof(address), host, sizeof(host),
                port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    return (address.ss_family == AF_INET6 ? '[' + std::string(host) + ']' : host) + ':' + port;
}

static std::string figure(int64_t value)
{
    return value == NGX_RS_UNKNOWN ? "-" : std::to_string(value);
}

static std::string text(const ngx_rs_subflow_t &path)
{
    return text(path.remote) + " -> " + text(path.local) + " sent=" + figure(path.bytes_sent)
           + " received=" + figure(path.bytes_received) + " retransmits=" + figure(path.retransmits)
           + " rtt_ms=" + (path.rtt_us < 0 ? "-" : std::to_string(path.rtt_us / 1e3));
}

static void serve(const Fd &client)
{
    char data[4096];
    for (ssize_t size; (size = recv(client.get(), data, sizeof(data), 0)) > 0;)
        for (ssize_t sent = 0, more; sent < size; sent += more)
            if ((more = send(client.get(), data + sent, size - sent, MSG_NOSIGNAL)) < 0) return;

    ngx_rs_subflow_t paths[16] = { NGX_RS_SUBFLOW_INIT };
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    std::size_t count = 0;
    ngx_rs_connection_subflows(client.get(), paths, 16, &count, &info, nullptr);
    std::string line = info.kind == NGX_RS_CONNECTION_MPTCP ? "MPTCP"
                       : info.kind == NGX_RS_CONNECTION_FALLBACK ? "fallback" : "TCP";
    for (std::size_t i = 0; i < count && i < 16; i++) line += "\n  " + text(paths[i]);
    std::cout << line + '\n' << std::flush;
}

int main(int argc, char **argv) try {
    std::vector<Fd> sockets = open_all({ argv + 1, argv + argc });
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    const Fd stop(signalfd(-1, &signals, 0));
    std::vector<pollfd> polled = { { stop.get(), POLLIN, 0 } };
    for (const Fd &socket : sockets) polled.push_back({ socket.get(), POLLIN, 0 });

    std::cout << "listening on " << sockets.size() << " sockets" << std::endl;
    while (poll(polled.data(), polled.size(), -1) > 0 && polled[0].revents == 0)
        for (const pollfd &one : polled) {
            int fd = one.revents ? accept(one.fd, nullptr, nullptr) : -1;
            if (fd != -1) std::thread([](Fd client) { serve(client); }, Fd(fd)).detach();
        }
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
