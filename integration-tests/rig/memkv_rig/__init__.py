# SPDX-License-Identifier: Apache-2.0
"""What the integration tests of every engine stand on."""
