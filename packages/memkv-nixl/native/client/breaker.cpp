// SPDX-License-Identifier: Apache-2.0
#include "client/breaker.hpp"

#include "client/limits.hpp"

#include <algorithm>
#include <cstdint>

namespace memkv {

long jittered(long low, long high) {
    static std::atomic<std::uint64_t> state{static_cast<std::uint64_t>(Clock::now().time_since_epoch().count())};
    std::uint64_t mixed = state.fetch_add(0x9E3779B97F4A7C15U) + 0x9E3779B97F4A7C15U; // splitmix64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9U;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBU;
    return low + static_cast<long>((mixed ^ mixed >> 31) % static_cast<std::uint64_t>(high - low + 1));
}

void Breaker::success() {
    if (!failures_.load(std::memory_order_relaxed) && !open())
        return;
    const std::lock_guard lock(mutex_);
    failures_ = 0;
    delay_ms_ = 0;
    open_ = false;
}

bool Breaker::failure(Deadline now, bool fatal) {
    const std::lock_guard lock(mutex_);
    ++failures_;
    if (open_ || !(fatal || failures_ >= limits::BREAKER_FAILURES))
        return false;
    open_ = true;
    schedule(now);
    return true;
}

bool Breaker::probe_due(Deadline now) {
    const std::lock_guard lock(mutex_);
    return open_ && now >= probe_at_;
}

void Breaker::probe_failed(Deadline now) {
    const std::lock_guard lock(mutex_);
    schedule(now);
}

void Breaker::schedule(Deadline now) {
    delay_ms_ = std::clamp<long>(2 * delay_ms_, limits::BREAKER_PROBE_MS_MIN, limits::BREAKER_PROBE_MS_MAX);
    probe_at_ = now + std::chrono::milliseconds(jittered(delay_ms_ / 2, delay_ms_));
}

} // namespace memkv
