// SPDX-License-Identifier: Apache-2.0
// Threads of ours in a process that is not: they take none of its signals.
#pragma once

#include <csignal>
#include <pthread.h>
#include <thread>
#include <utility>

namespace memkv {

template <class Function> std::thread start_thread(Function &&function) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::thread thread(std::forward<Function>(function));
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return thread;
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
}

} // namespace memkv
