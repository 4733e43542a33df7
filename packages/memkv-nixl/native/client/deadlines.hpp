// SPDX-License-Identifier: Apache-2.0
// Settles every batch at its deadline, whatever the threads that work on it wait for.
#pragma once

#include "client/batch.hpp"
#include "client/sync.hpp"

#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

namespace memkv {

class Deadlines {
  public:
    Deadlines();
    ~Deadlines(); // settles what is open
    void watch(const std::shared_ptr<Batch> &batch);

  private:
    struct Entry {
        Deadline deadline;
        std::weak_ptr<Batch> batch;
        bool operator<(const Entry &other) const { return deadline > other.deadline; } // the next one on top
    };

    void run();

    std::mutex mutex_;
    Condition changed_;
    bool stopping_ = false;
    std::priority_queue<Entry> entries_;
    std::thread thread_;
};

} // namespace memkv
