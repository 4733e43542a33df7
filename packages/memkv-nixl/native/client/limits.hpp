// SPDX-License-Identifier: Apache-2.0
// Every bound of the protocol and of this client; the same figures as memkv_core/limits.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memkv::limits {

inline constexpr std::size_t KIB = 1024;
inline constexpr std::size_t MIB = 1024 * KIB;

// Keys and values.
inline constexpr std::size_t KEY_BYTES_MAX = 512;
inline constexpr std::size_t META_BYTES_MAX = 4 * KIB;
inline constexpr std::size_t VALUE_BYTES_MAX = 256 * MIB;

// Frames. A frame carries one batch; larger batches are cut.
inline constexpr std::size_t FRAME_KEYS_MAX = 4096;
inline constexpr std::size_t FRAME_METADATA_BYTES_MAX = 24 * MIB;
inline constexpr std::size_t FRAME_PAYLOAD_BYTES_MAX = VALUE_BYTES_MAX;
inline constexpr std::size_t FRAME_BYTES_TARGET_MAX = 16 * MIB; // where a batch is cut at the latest
inline constexpr std::size_t FRAME_BYTES_TARGET_MIN = 2 * MIB;  // and at the earliest, to keep a second connection busy

// Handshake.
inline constexpr std::size_t HELLO_BYTES_MAX = 20 * KIB;
inline constexpr std::size_t IDENTITY_BYTES_MAX = 16 * KIB;
inline constexpr std::size_t NAMESPACE_BYTES_MAX = 255;
inline constexpr std::size_t AGENT_BYTES_MAX = 128;
inline constexpr std::size_t AUTH_KEY_BYTES = 32;
inline constexpr std::size_t NONCE_BYTES = 32;
inline constexpr std::size_t REFUSAL_BYTES_MAX = 1024;

// Placement.
inline constexpr std::size_t SLOT_COUNT = 4096;
inline constexpr std::size_t LANES_MAX = 256;
inline constexpr std::size_t SERVERS_MAX = 1024;

// Client.
inline constexpr long TIMEOUT_MS_MAX = 600'000;
inline constexpr long CONNECTIONS_MAX = 64;
inline constexpr long STAGING_MB_MAX = 1024L * 1024;
inline constexpr std::size_t WINDOW_BYTES = 4 * MIB; // handed to one sendmsg or recvmsg
inline constexpr std::size_t WAKE_BYTES = 512 * KIB; // of a payload that wake its receiver, or all that is left of it
inline constexpr std::size_t WAKE_BYTES_MIN = 64 * KIB; // a segment of the kernel's: for less it is not worth the call
inline constexpr std::size_t IOV_COUNT_MAX = 1024;      // parts of one sendmsg or recvmsg; UIO_MAXIOV
inline constexpr std::size_t DISCARD_BYTES = 64 * KIB;  // what is not wanted is received into so much memory
inline constexpr int BREAKER_FAILURES = 3;              // in a row; a spent deadline opens a breaker at once
inline constexpr int BREAKER_PROBE_MS_MIN = 250;
inline constexpr int BREAKER_PROBE_MS_MAX = 2'000;
inline constexpr int FIRST_CONTACT_MS = 500; // that making a backend waits for the servers, at most
inline constexpr int PROBE_TIMEOUT_MS = 1'000;
inline constexpr int DEADLINE_SPENT_MS_MIN = 250; // a shorter time-out says more about the caller than about the server
inline constexpr int RETRIES = 2;
inline constexpr int BACKOFF_MS_MIN = 20;
inline constexpr int BACKOFF_MS_MAX = 100;
inline constexpr int POLL_SLICE_MS = 20; // how often a wait looks whether it is still wanted

// Settings and licenses.
inline constexpr std::size_t CONFIG_BYTES_MAX = MIB;
inline constexpr std::size_t LICENSE_BYTES_MAX = 16 * KIB;
inline constexpr std::size_t LICENSE_KEYS_MAX = 256;
inline constexpr std::size_t LICENSE_TEXT_MAX = 200;
inline constexpr double LICENSE_LEEWAY_S = 60;
inline constexpr int LOG_INTERVAL_S = 10; // one line for each cause in this time

} // namespace memkv::limits
