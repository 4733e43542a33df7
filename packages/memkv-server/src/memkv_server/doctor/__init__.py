# SPDX-License-Identifier: Apache-2.0
"""``memkv doctor``: what is wrong with this machine's way to the cluster, and what to do about it, line by line.

``finding`` says what a line is; ``settings``, ``cluster``, ``machine``, ``drives`` and ``engines`` look, each at one
thing; ``examine`` goes through all of them.
"""
