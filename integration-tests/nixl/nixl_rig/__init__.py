# SPDX-License-Identifier: Apache-2.0
"""What the tests on the real NIXL stand on."""
