// SPDX-License-Identifier: Apache-2.0
#include "client/landings.hpp"

#include "client/errors.hpp"

namespace memkv {

Landings::Landings(const Call &call, const wire::GetResponse &response, DigestKind kind_min)
    : kind_min_(kind_min), answers_(call.positions.size(), Answer::miss) {
    for (std::size_t place = 0; place < answers_.size(); ++place) {
        if (response.statuses[place] == static_cast<char>(wire::Status::hit))
            add(call, response, place);
        else if (response.statuses[place] == static_cast<char>(wire::Status::too_long))
            answers_[place] = Answer::too_long;
    }
}

void Landings::add(const Call &call, const wire::GetResponse &response, std::size_t place) {
    const Item &item = call.batch->items[call.positions[place]];
    const std::size_t length = response.lengths[place];
    if (!item.unbounded && length > item.layout.end())
        throw TransportError(Cause::protocol, "a value of " + std::to_string(length) + " bytes where " +
                                                  std::to_string(item.layout.end()) + " were asked for");
    const bool short_of = length < item.layout.end();
    answers_[place] = short_of ? Answer::short_of : Answer::hit;
    values_.push_back({place, short_of ? Layout::discard(length) : item.layout.land(length), response.digests[place],
                       static_cast<std::uint8_t>(response.kinds[place]),
                       (values_.empty() ? 0 : values_.back().end) + length});
}

std::vector<Part> Landings::parts() const {
    std::vector<Part> parts;
    for (const Value &value : values_)
        parts.insert(parts.end(), value.landing.parts.begin(), value.landing.parts.end());
    return parts;
}

Answer Landings::verified(const Value &value) const {
    // A weaker digest than this client asks for proves nothing to it.
    if (value.kind < static_cast<std::uint8_t>(kind_min_))
        return Answer::miss;
    if (value.kind > static_cast<std::uint8_t>(DigestKind::sha256_128) ||
        digest_of(value.landing.parts, static_cast<DigestKind>(value.kind)) != value.digest)
        return Answer::corrupt;
    value.landing.finish();
    return Answer::hit;
}

void Landings::landed(std::size_t received_bytes) {
    for (; verified_count_ < values_.size() && values_[verified_count_].end <= received_bytes; ++verified_count_) {
        Value &value = values_[verified_count_];
        if (answers_[value.place] == Answer::hit)
            answers_[value.place] = verified(value);
        value.landing.scratch.reset();
    }
}

} // namespace memkv
