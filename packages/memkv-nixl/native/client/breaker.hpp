// SPDX-License-Identifier: Apache-2.0
// Whether a server is worth a try: the rules of memkv_core/breaker.py. Thread-safe.
//
//     CLOSED ──a spent deadline, or BREAKER_FAILURES failures in a row──► OPEN ──probe answered──► CLOSED
//                                                                         │ ▲
//                                                                         └─┘ probe failed: the next one later, jittered
#pragma once

#include "client/sync.hpp"

#include <atomic>
#include <mutex>

namespace memkv {

class Breaker {
  public:
    bool open() const { return open_.load(std::memory_order_relaxed); }
    void success();
    bool failure(Deadline now, bool fatal); // true when this one opened it
    bool probe_due(Deadline now);
    void probe_failed(Deadline now);

  private:
    void schedule(Deadline now);

    std::mutex mutex_;
    std::atomic<bool> open_{false};
    std::atomic<int> failures_{0};
    long delay_ms_ = 0;
    Deadline probe_at_{};
};

// Uniform in [low, high]: so that many clients do not come back at the same moment.
long jittered(long low, long high);

} // namespace memkv
