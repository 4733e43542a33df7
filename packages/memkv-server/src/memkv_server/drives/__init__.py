# SPDX-License-Identifier: Apache-2.0
"""The operator's tools for drives: finding them, looking at a store that no node has open, mending it, emptying it."""
