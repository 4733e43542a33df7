// SPDX-License-Identifier: Apache-2.0
// For the sanitizers: many threads on one client, with a live cluster in MEMKV_*. Puts, gets and queries whose outcomes
// and bytes are checked, and transfers that are given up while they are under way. Built with
// `native/build.py --sanitize thread --program stress`; exit code 0, and nothing said by the sanitizer, is a pass.
#include "client/client.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

using namespace memkv;

namespace {

constexpr std::size_t OBJECTS = 8;
constexpr std::size_t OBJECT_BYTES = 256 * 1024;
constexpr int ROUNDS = 30;

std::vector<Item> items_of(std::vector<std::string> &memory, const std::string &name) {
    std::vector<Item> items(memory.size());
    for (std::size_t at = 0; at < items.size(); ++at) {
        items[at].key = name + "/" + std::to_string(at);
        items[at].layout = Layout({Range{0, {memory[at].data(), memory[at].size()}}});
    }
    return items;
}

void require(bool good, const char *what) {
    if (good)
        return;
    std::fprintf(stderr, "stress: %s\n", what);
    std::exit(1);
}

void storm(const Settings &settings, int number) {
    const auto client = Client::shared(settings);
    for (int round = 0; round < ROUNDS; ++round) {
        const std::string name = "stress/" + std::to_string(number) + "/" + std::to_string(round);
        std::vector<std::string> source(OBJECTS, std::string(OBJECT_BYTES, static_cast<char>(number * 31 + round)));
        std::vector<std::string> target(OBJECTS, std::string(OBJECT_BYTES, '\0'));
        const auto put = client->post(Operation::put, items_of(source, name));
        put->wait();
        require(put->worst() == Outcome::done, "a put failed");
        const auto get = client->post(Operation::get, items_of(target, name));
        get->wait();
        require(get->worst() == Outcome::done && target == source, "a get failed, or gave other bytes");
        std::vector<Item> asked(2);
        asked[0].key = name + "/0";
        asked[1].key = name + "/none";
        const auto query = client->post(Operation::exists, std::move(asked));
        query->wait();
        require(query->items[0].outcome == Outcome::done && query->items[1].outcome == Outcome::missing,
                "a query failed");
        const auto given_up = client->post(round % 2 ? Operation::get : Operation::put, items_of(target, name));
        std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
        given_up->revoke(Outcome::failed);
        for (auto &part : target)
            part.assign(OBJECT_BYTES, 'x'); // the sanitizer sees who else touches it
    }
}

} // namespace

int main() {
    Settings settings = load_settings({{"namespace", "stress"}, {"timeout_ms", "60000"}});
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number)
        threads.emplace_back(storm, settings, number);
    for (auto &thread : threads)
        thread.join();
    std::puts("ok");
}
