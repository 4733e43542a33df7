# SPDX-License-Identifier: Apache-2.0
"""What the tests on the real vLLM stand on."""
