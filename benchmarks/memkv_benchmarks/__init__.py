# SPDX-License-Identifier: Apache-2.0
"""MemKV beside what else moves blocks between two processes of one machine: written down, never asserted."""
