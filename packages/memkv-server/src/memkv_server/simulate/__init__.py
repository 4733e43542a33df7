# SPDX-License-Identifier: Apache-2.0
"""Replays traces of block references against eviction policies: what a capacity and a policy are worth.

What is replayed is a prefix cache. A request names the blocks of its prefix in order. Those of the leading run that
are present are read (lookup, then get); the engine computes the rest, and puts every block of it. A put of a block
that is present stores nothing and counts as a use of it, as on a node.

Two ratios come of it, both over all block references: **leading hits**, blocks that did not have to be computed, and
**block hits**, where a block that is present behind the first miss counts as well. A trace's ids are taken to depend on
the whole prefix, as Mooncake's do, so that such blocks are rare: they are what a policy kept in vain.
"""
