// SPDX-License-Identifier: Apache-2.0
// One TCP socket, driven by one thread; every wait ends by a deadline, and early when nobody wants the answer any more.
#pragma once

#include "client/access.hpp"
#include "client/address.hpp"
#include "client/sync.hpp"

#include <atomic>
#include <span>
#include <string>
#include <sys/uio.h>

struct addrinfo;

namespace memkv {

// What a wait looks at. `access` may be nullptr.
struct Watch {
    Deadline deadline;
    const std::atomic<bool> &stopping;
    const Access *access = nullptr;
};

class Socket {
  public:
    Socket(const Address &address, const Watch &watch); // connects; throws TransportError
    ~Socket();
    Socket(const Socket &) = delete;

    // Bytes that were moved; 0 where it would have to wait.
    std::size_t send_some(std::span<iovec> from);
    std::size_t receive_some(std::span<iovec> to);

    void wait_readable(const Watch &watch) { wait(POLL_IN, watch); }
    // So many bytes of a payload are still to come; 0 lets the next byte of anything wake the receiver again. Without it
    // the kernel wakes a receiver that is faster than its sender for each segment (memkv_core/wakeups.py).
    void expect(std::size_t size);
    void wait_writable(const Watch &watch) { wait(POLL_OUT, watch); }
    void send_all(std::string_view data, const Watch &watch);
    void receive_all(char *target, std::size_t size, const Watch &watch);
    bool is_stale(); // the peer has closed it, or sent what nobody asked for

  private:
    enum Events : short { POLL_IN = 1, POLL_OUT = 4 };

    bool connect_to(const ::addrinfo &address, const Watch &watch, std::string &why);
    void wait(Events events, const Watch &watch);
    [[noreturn]] void lost(const std::string &why) const;

    std::string name_;
    int fd_ = -1;
    int wake_bytes_ = 1; // SO_RCVLOWAT
};

} // namespace memkv
