// SPDX-License-Identifier: Apache-2.0
#include "client/deadlines.hpp"

#include "client/log.hpp"
#include "client/threads.hpp"

#include <string>

namespace memkv {

Deadlines::Deadlines() : thread_(start_thread([this] { run(); })) {}

Deadlines::~Deadlines() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void Deadlines::watch(const std::shared_ptr<Batch> &batch) {
    const std::lock_guard lock(mutex_);
    const bool sooner = entries_.empty() || batch->deadline < entries_.top().deadline;
    entries_.push({batch->deadline, batch});
    if (sooner)
        changed_.notify_all();
}

void Deadlines::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        while (!entries_.empty() && (stopping_ || entries_.top().deadline <= Clock::now())) {
            const auto batch = entries_.top().batch.lock();
            entries_.pop();
            lock.unlock(); // revoking waits for system calls under way
            const std::size_t open_count = batch && !batch->settled() ? batch->revoke(Outcome::failed) : 0;
            if (open_count && Clock::now() >= batch->deadline)
                log::warning("deadline", std::to_string(open_count) + " of " + std::to_string(batch->items.size()) +
                                             " objects had no answer before the deadline; see `memkv admin status`, or "
                                             "raise `timeout_ms` where this machine or a server has too much to do");
            lock.lock();
        }
        if (stopping_)
            return;
        if (entries_.empty())
            changed_.wait(lock);
        else
            changed_.wait_until(lock, entries_.top().deadline);
    }
}

} // namespace memkv
