// SPDX-License-Identifier: Apache-2.0
// For benchmarks: what the C++ client costs by itself, with neither NIXL nor Python around it, on a live cluster in
// MEMKV_*. One line of JSON: seconds and processor time of each batch.
//
//     pace put|get NAME COUNT SIZE ROUNDS        COUNT objects of SIZE bytes; get reads what put left under that name
#include "client/client.hpp"
#include "client/license.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <sys/resource.h>
#include <vector>

using namespace memkv;

namespace {

double processor_s() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

std::vector<Item> items_of(std::vector<char> &memory, std::size_t count, std::size_t size, const std::string &name) {
    std::vector<Item> items(count);
    for (std::size_t at = 0; at < count; ++at) {
        items[at].key = name + std::to_string(at);
        items[at].layout = Layout({Range{0, {memory.data() + at * size, size}}});
    }
    return items;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    const Operation operation = argv[1] == std::string("put") ? Operation::put : Operation::get;
    const std::size_t count = std::strtoul(argv[3], nullptr, 10), size = std::strtoul(argv[4], nullptr, 10);
    const long rounds = std::strtol(argv[5], nullptr, 10);
    const Settings settings = load_settings({{"namespace", "pace"}});
    const auto client = Client::shared(settings);
    std::vector<char> memory(count * size, 'x');
    const auto first = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
    nlohmann::json said;
    for (long round = 0; round <= rounds; ++round) {
        auto items = items_of(memory, count, size, argv[2] + ("/" + std::to_string(round) + "/"));
        for (std::size_t at = 0; operation == Operation::put && at < count; ++at) {
            const std::uint64_t fresh = first + static_cast<std::uint64_t>(round); // other bytes each time
            std::memcpy(&memory[at * size], &fresh, std::min(size, sizeof fresh));
        }
        const double before_s = processor_s();
        const auto started = Clock::now();
        const auto batch = client->post(operation, std::move(items));
        batch->wait();
        const std::chrono::duration<double> took = Clock::now() - started;
        if (batch->worst() != Outcome::done)
            return 1;
        if (!round)
            continue; // it connects
        said["wall_s"].push_back(took.count());
        said["processor_s"].push_back(processor_s() - before_s);
    }
    std::puts(said.dump().c_str());
}
