// SPDX-License-Identifier: Apache-2.0
// Probes the servers whose breaker is open, so that no caller's time is spent on it.
#pragma once

#include "client/server.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace memkv {

class Prober {
  public:
    Prober(const std::vector<std::unique_ptr<Server>> &servers, const std::atomic<bool> &stopping);

    void wake(); // a breaker has opened
    void join(); // `stopping` is set: waits for the thread

  private:
    void run();

    const std::vector<std::unique_ptr<Server>> &servers_;
    const std::atomic<bool> &stopping_;
    std::mutex mutex_;
    Condition changed_;
    std::thread thread_; // from the first time that it is needed
};

} // namespace memkv
