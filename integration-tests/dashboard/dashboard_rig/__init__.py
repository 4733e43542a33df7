# SPDX-License-Identifier: Apache-2.0
"""What the tests of the dashboard and its screenshots stand on: a browser without a screen, and clients at work."""
