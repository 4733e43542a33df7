// SPDX-License-Identifier: Apache-2.0
// Lines on stderr, where NIXL's own log goes, in its form and under its NIXL_LOG_LEVEL; one for each cause in a while.
#pragma once

#include <string>

namespace memkv::log {

void info(const std::string &text);
void warning(const std::string &cause, const std::string &text); // at most one of a cause in LOG_INTERVAL_S
void error(const std::string &text);

} // namespace memkv::log
