// SPDX-License-Identifier: Apache-2.0
#include "client/server.hpp"

#include "client/frames.hpp"
#include "client/limits.hpp"
#include "client/log.hpp"
#include "client/threads.hpp"

#include <algorithm>
#include <system_error>

namespace memkv {

namespace {

// A refusal of one of these says something of the server or the client, not of the frame.
bool refuses_session(std::uint16_t code) {
    const auto known = static_cast<wire::ErrorCode>(code);
    return known == wire::ErrorCode::auth_failed || known == wire::ErrorCode::unsupported_version ||
           known == wire::ErrorCode::identity_mismatch || known == wire::ErrorCode::draining;
}

// Nobody waits for it any more; one without positions is a first contact, which waits for its deadline only.
bool is_over(const Call &share) {
    return milliseconds_until(share.batch->deadline) <= 0 || (!share.positions.empty() && share.batch->settled());
}

void pause(int attempt) {
    const long pause_ms = jittered(limits::BACKOFF_MS_MIN, limits::BACKOFF_MS_MAX) * (attempt + 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
}

} // namespace

Server::Server(Address address, const ServerOptions &options, const std::atomic<bool> &stopping, Dispatch &dispatch)
    : address_(std::move(address)), options_(options), stopping_(stopping), dispatch_(dispatch) {}

void Server::join() {
    std::vector<std::thread> threads;
    {
        const std::lock_guard lock(mutex_); // who takes it after this starts no thread
        threads.swap(threads_);
        threads.push_back(std::move(greeter_));
        for (Lane &lane : lanes_)
            lane.changed.notify_all();
    }
    for (auto &thread : threads)
        if (thread.joinable())
            thread.join();
}

// -- from a share of a batch to the lanes' queues ---------------------------------------------------------------------

void Server::submit(Call share) {
    const std::lock_guard lock(mutex_);
    if (stopping_)
        return; // whoever ends the client settles the batch
    if (lane_count_) {
        route(share);
        return;
    }
    waiting_.push_back(std::move(share));
    start_greeter();
}

bool Server::met() const {
    const std::lock_guard lock(mutex_);
    return met_;
}

std::string Server::refusal() const {
    const std::lock_guard lock(mutex_);
    return refusal_;
}

void Server::route(const Call &share) {
    std::vector<std::vector<std::uint32_t>> by_lane(lane_count_);
    for (const auto position : share.positions)
        by_lane[lane_count_ == 1 ? 0 : lane_table_->lane_of(share.batch->items[position].hash)].push_back(position);
    for (std::size_t number = 0; number < lane_count_; ++number)
        for (Call &call : cut(share, std::move(by_lane[number]), options_.connections))
            enqueue(number, std::move(call));
}

void Server::enqueue(std::size_t number, Call call) {
    Lane &lane = lanes_[number];
    lane.queue.push_back(std::move(call));
    if (lane.idle < lane.queue.size() && lane.threads < static_cast<std::size_t>(options_.connections)) {
        try {
            threads_.push_back(start_thread([this, number] { work(number); }));
            ++lane.threads;
        } catch (const std::system_error &error) { // those that run will do it, or the deadline settles it
            log::warning("threads", std::string("no thread can be started: ") + error.what());
        }
    }
    lane.changed.notify_one();
}

// -- the lanes of a server ----------------------------------------------------------------------------------------------

void Server::start_greeter() {
    if (greeting_)
        return;
    if (greeter_.joinable())
        greeter_.join(); // it has nothing left to do
    greeting_ = true;
    greeter_ = start_thread([this] { greet(); });
}

void Server::greet() {
    int attempt = 0;
    std::unique_lock lock(mutex_);
    while (!stopping_ && !waiting_.empty()) {
        std::vector<Call> shares;
        shares.swap(waiting_);
        lock.unlock();
        std::erase_if(shares, is_over);
        const bool again = !shares.empty() && allows() && greet_once(shares.front(), attempt);
        if (!again)
            attempt = 0;
        lock.lock();
        if (stopping_) {
            break;
        } else if (lane_count_) {
            for (const Call &share : shares)
                route(share);
        } else if (again) {
            waiting_.insert(waiting_.begin(), shares.begin(), shares.end());
        } else {
            lock.unlock();
            for (const Call &share : shares)
                dispatch_.failed(share);
            lock.lock();
        }
    }
    greeting_ = false;
}

// Whether another try may go better for those who wait, where the lanes are still not known. It is `share` that is tried
// for: when its time is over, that is no verdict on the others.
bool Server::greet_once(const Call &share, int &attempt) {
    try {
        auto connection = std::make_unique<Connection>(address_, options_.identity, handshake::LANE_ANY, watch(share));
        const std::size_t count = connection->lane_count();
        learn(count, std::move(connection));
        breaker_.success();
        return false;
    } catch (const TransportError &error) {
        if (error.cause == Cause::revoked) {
            note_if_spent(*share.batch);
            return allows();
        }
        // A first contact has a short time of its own: that it was spent says little.
        if (error.cause != Cause::timeout || !share.positions.empty())
            note_failure(error, false);
        if (error.cause == Cause::timeout)
            return allows();
        if (!error.worth_a_retry() || attempt == limits::RETRIES || !allows())
            return false;
        pause(attempt++);
        return true;
    } catch (const std::exception &error) {
        log::warning("greeter", address_.text() + ": " + error.what());
        return false;
    }
}

void Server::learn(std::size_t lane_count, std::unique_ptr<Connection> connection) {
    const std::lock_guard lock(mutex_);
    met_ = true;
    refusal_.clear();
    if (lane_count != lane_count_) {
        lane_table_.emplace(lane_count);
        lane_count_ = lane_count;
        while (lanes_.size() < lane_count)
            lanes_.emplace_back();
    }
    if (connection)
        lanes_[connection->lane()].spare = std::move(connection);
}

void Server::lanes_changed(Call call) {
    {
        const std::lock_guard lock(mutex_);
        lane_count_ = 0;
    }
    if (call.lane_changes++ < limits::RETRIES)
        submit(std::move(call));
    else
        dispatch_.failed(call);
}

void Server::probe() {
    const Watch watch{Clock::now() + std::chrono::milliseconds(limits::PROBE_TIMEOUT_MS), stopping_};
    try {
        auto connection = std::make_unique<Connection>(address_, options_.identity, handshake::LANE_ANY, watch);
        const std::size_t count = connection->lane_count();
        learn(count, std::move(connection));
        breaker_.success();
        log::info("server " + address_.text() + " is used again");
    } catch (const std::exception &) { // the cause was logged when the breaker opened
        breaker_.probe_failed(Clock::now());
    }
}

// -- a lane's threads -----------------------------------------------------------------------------------------------------

void Server::work(std::size_t number) {
    std::unique_ptr<Connection> connection;
    std::unique_lock lock(mutex_);
    Lane &lane = lanes_[number];
    while (true) {
        ++lane.idle;
        while (!stopping_ && lane.queue.empty())
            lane.changed.wait(lock);
        --lane.idle;
        if (stopping_)
            return;
        const Call call = std::move(lane.queue.front());
        lane.queue.pop_front();
        if (!connection)
            connection = std::move(lane.spare);
        lock.unlock();
        run(call, number, connection);
        lock.lock();
    }
}

void Server::run(const Call &call, std::size_t number, std::unique_ptr<Connection> &connection) {
    if (!allows() && !call.batch->settled()) {
        dispatch_.failed(call);
        return;
    }
    for (int attempt = 0; !call.batch->settled() && !stopping_;)
        if (try_once(call, number, connection, attempt))
            return;
}

// True when there is nothing left to try. `attempt` counts what failed.
bool Server::try_once(const Call &call, std::size_t number, std::unique_ptr<Connection> &connection, int &attempt) {
    bool reused = false;
    try {
        if (connection && connection->is_stale())
            connection.reset();
        reused = connection && connection->used();
        if (!connection)
            connection = std::make_unique<Connection>(address_, options_.identity, static_cast<std::uint16_t>(number),
                                                      watch(call));
        const auto answers = connection->exchange(call, options_.integrity, watch(call));
        breaker_.success();
        const bool corrupt = std::find(answers.begin(), answers.end(), Answer::corrupt) != answers.end();
        if (corrupt && call.batch->operation == Operation::get) {
            log::warning("corrupt", "blocks of " + address_.text() + " came back with other bytes than were put");
            connection->report_corrupt(call, answers, watch(call));
        }
        dispatch_.answered(call, answers);
        return true;
    } catch (const TransportError &error) {
        const bool session_stands = connection && connection->whole();
        if (!session_stands)
            connection.reset(); // the fence
        if (error.cause == Cause::revoked) {
            note_if_spent(*call.batch);
            return true;
        }
        if (error.cause == Cause::lanes) {
            lanes_changed(call);
            return true;
        }
        if (reused && error.cause == Cause::disconnected) // closed while nobody looked: as if it had not been there
            return false;
        note_failure(error, session_stands);
        if (error.worth_a_retry() && attempt < limits::RETRIES && allows()) {
            pause(attempt++);
            return false;
        }
    } catch (const std::exception &error) { // no memory
        connection.reset();
        log::warning("exception", address_.text() + ": " + error.what());
    }
    dispatch_.failed(call);
    return true;
}

// At its deadline a batch is settled by another thread, which may be the first to see that it has passed.
void Server::note_if_spent(const Batch &batch) {
    if (Clock::now() >= batch.deadline && !stopping_)
        note_failure({Cause::timeout, "it did not answer before the deadline"}, false);
}

// What a call met, for the breaker. A frame that is refused on a good session is no failure of the server's.
void Server::note_failure(const TransportError &error, bool session_stands) {
    log::warning(address_.text() + error.what(), "server " + address_.text() + ": " + error.what());
    if (error.cause == Cause::refused && session_stands && !refuses_session(error.code))
        return;
    const bool spent = error.cause == Cause::timeout && options_.timeout_ms >= limits::DEADLINE_SPENT_MS_MIN;
    const bool refused = error.cause == Cause::auth || error.cause == Cause::refused;
    const bool fatal = spent || refused;
    {
        const std::lock_guard lock(mutex_);
        met_ = true;
        refusal_ = refused ? error.what() : "";
    }
    if (breaker_.failure(Clock::now(), fatal))
        dispatch_.breaker_opened();
}

} // namespace memkv
