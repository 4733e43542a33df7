// SPDX-License-Identifier: Apache-2.0
// Waiting with deadlines on the monotonic clock. (std::condition_variable would need a newer libstdc++ than a host has.)
#pragma once

#include <chrono>
#include <ctime>
#include <mutex>
#include <pthread.h>

namespace memkv {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

inline long milliseconds_until(Deadline deadline) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
}

class Condition {
  public:
    Condition() {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&condition_, &attributes);
        pthread_condattr_destroy(&attributes);
    }
    ~Condition() { pthread_cond_destroy(&condition_); }
    Condition(const Condition &) = delete;

    void notify_one() { pthread_cond_signal(&condition_); }
    void notify_all() { pthread_cond_broadcast(&condition_); }
    void wait(std::unique_lock<std::mutex> &lock) { pthread_cond_wait(&condition_, lock.mutex()->native_handle()); }
    void wait_until(std::unique_lock<std::mutex> &lock, Deadline deadline) {
        const auto since = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
        const timespec until{since / 1'000'000'000, since % 1'000'000'000};
        pthread_cond_timedwait(&condition_, lock.mutex()->native_handle(), &until);
    }

  private:
    pthread_cond_t condition_;
};

} // namespace memkv
