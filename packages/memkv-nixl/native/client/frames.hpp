// SPDX-License-Identifier: Apache-2.0
// Cuts a lane's share of a batch into calls of one frame each. Pure.
#pragma once

#include "client/batch.hpp"

#include <vector>

namespace memkv {

// At most FRAME_KEYS_MAX keys, and so many bytes that `connections` have something to do; an object whose length is not
// known goes alone.
std::vector<Call> cut(const Call &share, std::vector<std::uint32_t> positions, long connections);

} // namespace memkv
