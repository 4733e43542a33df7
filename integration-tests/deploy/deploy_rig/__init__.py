# SPDX-License-Identifier: Apache-2.0
"""A real node with the command and the settings that a unit, an image or a chart gives it."""
