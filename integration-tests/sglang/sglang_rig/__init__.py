# SPDX-License-Identifier: Apache-2.0
"""What the tests on the real sglang and the demo share: a cluster, a checkpoint, the controller, engine processes."""
