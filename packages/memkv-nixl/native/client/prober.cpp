// SPDX-License-Identifier: Apache-2.0
#include "client/prober.hpp"

#include "client/log.hpp"
#include "client/threads.hpp"

#include <algorithm>
#include <system_error>

namespace memkv {

namespace {

constexpr std::chrono::milliseconds INTERVAL{50};

}

Prober::Prober(const std::vector<std::unique_ptr<Server>> &servers, const std::atomic<bool> &stopping)
    : servers_(servers), stopping_(stopping) {}

void Prober::join() {
    {
        const std::lock_guard lock(mutex_);
        changed_.notify_all();
    }
    if (thread_.joinable())
        thread_.join();
}

void Prober::wake() {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
    if (thread_.joinable() || stopping_)
        return;
    try {
        thread_ = start_thread([this] { run(); });
    } catch (const std::system_error &error) { // the next breaker that opens tries again
        log::warning("threads", std::string("the probing thread cannot be started: ") + error.what());
    }
}

void Prober::run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
        const bool closed =
            std::all_of(servers_.begin(), servers_.end(), [](auto &server) { return server->allows(); });
        if (closed) {
            changed_.wait(lock);
            continue;
        }
        changed_.wait_until(lock, Clock::now() + INTERVAL);
        lock.unlock();
        for (const auto &server : servers_)
            if (!stopping_ && server->probe_due(Clock::now()))
                server->probe();
        lock.lock();
    }
}

} // namespace memkv
