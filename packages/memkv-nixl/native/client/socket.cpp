// SPDX-License-Identifier: Apache-2.0
#include "client/socket.hpp"

#include "client/errors.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace memkv {

namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// May take longer than a deadline where a name service is slow: the batch is settled in time all the same.
Addresses resolve(const Address &address) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
    addrinfo *found = nullptr;
    const int error = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
    if (error)
        throw TransportError(Cause::connect, address.text() + " cannot be resolved: " + gai_strerror(error) +
                                                 "; check MEMKV_SERVERS and the name service");
    return {found, freeaddrinfo};
}

} // namespace

Socket::Socket(const Address &address, const Watch &watch) : name_(address.text()) {
    const Addresses found = resolve(address);
    std::string why;
    for (const addrinfo *next = found.get(); next; next = next->ai_next)
        if (connect_to(*next, watch, why))
            return;
    throw TransportError(Cause::connect, "cannot connect to " + name_ + ": " + why +
                                             "; check MEMKV_SERVERS and that the server runs (`memkv admin status`)");
}

bool Socket::connect_to(const addrinfo &address, const Watch &watch, std::string &why) {
    fd_ = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd_ < 0) {
        why = std::strerror(errno);
        return false;
    }
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int error = 0;
    if (::connect(fd_, address.ai_addr, address.ai_addrlen) != 0) {
        error = errno;
        if (error == EINPROGRESS) {
            try {
                wait(POLL_OUT, watch);
            } catch (...) {
                close(fd_);
                fd_ = -1;
                throw;
            }
            socklen_t size = sizeof error;
            getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
        }
    }
    if (error == 0)
        return true;
    why = std::strerror(error);
    close(fd_);
    fd_ = -1;
    return false;
}

Socket::~Socket() {
    if (fd_ < 0)
        return;
    shutdown(fd_, SHUT_RDWR); // also where a fork has left a copy of it in a child
    close(fd_);
}

void Socket::lost(const std::string &why) const {
    throw TransportError(Cause::disconnected, "connection to " + name_ + " lost: " + why);
}

std::size_t Socket::send_some(std::span<iovec> from) {
    msghdr message{};
    message.msg_iov = from.data();
    message.msg_iovlen = from.size();
    const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0)
        return static_cast<std::size_t>(sent);
    if (errno != EAGAIN && errno != EINTR)
        lost(std::strerror(errno));
    return 0;
}

std::size_t Socket::receive_some(std::span<iovec> to) {
    msghdr message{};
    message.msg_iov = to.data();
    message.msg_iovlen = to.size();
    const ssize_t received = recvmsg(fd_, &message, MSG_DONTWAIT);
    if (received > 0)
        return static_cast<std::size_t>(received);
    if (received == 0)
        lost("closed by the server");
    if (errno != EAGAIN && errno != EINTR)
        lost(std::strerror(errno));
    return 0;
}

void Socket::expect(std::size_t size) {
    const int wanted = size >= limits::WAKE_BYTES_MIN ? static_cast<int>(std::min(size, limits::WAKE_BYTES)) : 1;
    if (wanted == wake_bytes_)
        return;
    wake_bytes_ = wanted;
    setsockopt(fd_, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
}

void Socket::wait(Events events, const Watch &watch) {
    static_assert(POLL_IN == POLLIN && POLL_OUT == POLLOUT);
    while (true) {
        if (watch.stopping.load(std::memory_order_relaxed) || (watch.access && watch.access->revoked()))
            throw TransportError(Cause::revoked, "nobody waits for the answer any more");
        const long left_ms = milliseconds_until(watch.deadline);
        if (left_ms <= 0)
            throw TransportError(Cause::timeout,
                                 name_ + " did not answer before the deadline; see `memkv admin status`");
        pollfd polled{fd_, events, 0};
        if (poll(&polled, 1, static_cast<int>(std::min<long>(left_ms, limits::POLL_SLICE_MS))) > 0)
            return;
    }
}

void Socket::send_all(std::string_view data, const Watch &watch) {
    while (!data.empty()) {
        iovec piece{const_cast<char *>(data.data()), data.size()};
        const std::size_t sent = send_some({&piece, 1});
        data.remove_prefix(sent);
        if (!sent)
            wait_writable(watch);
    }
}

void Socket::receive_all(char *target, std::size_t size, const Watch &watch) {
    while (size) {
        iovec piece{target, size};
        const std::size_t received = receive_some({&piece, 1});
        target += received;
        size -= received;
        if (!received)
            wait_readable(watch);
    }
}

bool Socket::is_stale() {
    pollfd polled{fd_, POLLIN | POLLRDHUP, 0};
    return poll(&polled, 1, 0) != 0;
}

} // namespace memkv
