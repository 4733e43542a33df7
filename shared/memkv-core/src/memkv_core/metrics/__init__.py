# SPDX-License-Identifier: Apache-2.0
"""What is measured: tables of metrics, and what exports a client's. The table of the node is in ``memkv_server``."""
