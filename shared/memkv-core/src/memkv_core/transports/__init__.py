# SPDX-License-Identifier: Apache-2.0
"""Transports: the only modules of the client that open sockets or verbs."""
