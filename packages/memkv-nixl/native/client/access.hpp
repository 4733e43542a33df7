// SPDX-License-Identifier: Apache-2.0
// The fence around a caller's memory: while a thread of ours holds a Use it may touch it, and once revoke() has returned
// none does, or ever will. A Use lasts for one system call that does not block, or one digest.
#pragma once

#include <atomic>
#include <mutex>
#include <shared_mutex>

namespace memkv {

class Access {
  public:
    using Use = std::shared_lock<std::shared_mutex>;

    // Owns the lock where the memory may be touched.
    Use use() {
        if (revoked_.load(std::memory_order_relaxed))
            return {};
        Use lock(mutex_);
        if (revoked_.load(std::memory_order_relaxed))
            lock.unlock();
        return lock;
    }

    void revoke() {
        revoked_.store(true, std::memory_order_relaxed); // first: those who come from now on do not hold this up
        const std::unique_lock lock(mutex_);
    }

    bool revoked() const { return revoked_.load(std::memory_order_relaxed); }

  private:
    std::shared_mutex mutex_;
    std::atomic<bool> revoked_{false};
};

} // namespace memkv
