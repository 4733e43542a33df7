// SPDX-License-Identifier: Apache-2.0
#include "client/log.hpp"

#include "client/files.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <ctime>
#include <map>
#include <mutex>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace memkv::log {

namespace {

enum Level { LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARN, LEVEL_ERROR };

Level level_min() {
    std::string name = files::environment("NIXL_LOG_LEVEL");
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
    if (name == "TRACE" || name == "DEBUG")
        return LEVEL_DEBUG;
    if (name == "INFO")
        return LEVEL_INFO;
    return name == "ERROR" || name == "FATAL" ? LEVEL_ERROR : LEVEL_WARN;
}

void write_line(Level level, const std::string &text) {
    if (level < level_min())
        return;
    timeval now{};
    gettimeofday(&now, nullptr);
    tm local{};
    localtime_r(&now.tv_sec, &local);
    char stamp[64];
    const std::size_t size = std::strftime(stamp, sizeof stamp, "%m%d %H:%M:%S", &local);
    std::string micros = std::to_string(now.tv_usec);
    micros.insert(0, 6 - micros.size(), '0');
    const std::string line = std::string(1, "DIWE"[level]) + std::string(stamp, size) + "." + micros + " " +
                             std::to_string(syscall(SYS_gettid)) + " memkv] " + text + "\n";
    // One write: lines of several threads do not mix. What stderr does not take is lost, as any log line.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

} // namespace

void info(const std::string &text) { write_line(LEVEL_INFO, text); }

void error(const std::string &text) { write_line(LEVEL_ERROR, text); }

void warning(const std::string &cause, const std::string &text) {
    using Clock = std::chrono::steady_clock;
    // Never freed: a thread may still log while the process ends.
    static auto *mutex = new std::mutex;
    static auto *last = new std::map<std::string, Clock::time_point>;
    {
        const std::lock_guard lock(*mutex);
        const auto now = Clock::now();
        const auto found = last->find(cause);
        if (found != last->end() && now - found->second < std::chrono::seconds(limits::LOG_INTERVAL_S))
            return;
        if (last->size() > 256)
            last->clear();
        (*last)[cause] = now;
    }
    write_line(LEVEL_WARN, text);
}

} // namespace memkv::log
