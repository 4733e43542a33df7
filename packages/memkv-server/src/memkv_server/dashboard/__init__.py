# SPDX-License-Identifier: Apache-2.0
"""The dashboard: a page at the admin port that shows the whole cluster, as one of its nodes sees it.

    lanes ──status──► history (an hour, in the supervisor) ─┐
    lanes ──look────► view of this node ────────────────────┼──► watch ──server-sent events──► page
    peers' admin API ──► their views and samples ───────────┘

Nothing but the history costs anything while no page is open.
"""
