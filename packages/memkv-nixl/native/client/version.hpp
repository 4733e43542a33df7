// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace memkv {

#ifdef MEMKV_VERSION // the build says it: one version for all packages
inline constexpr const char *VERSION = MEMKV_VERSION;
#else
inline constexpr const char *VERSION = "unknown";
#endif

} // namespace memkv
